"""The rival of `benchmarks.start`: one process that evaluates a classifier without Ray.

Its argument is a JSON file with the `params` of the evaluation and the `checkpoint`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from orchestrator.contract import CHECKPOINT, StageContext
from pipelines.pretrain.evaluate import run
from pipelines.pretrain.params import PretrainEvaluationParams


def main(settings_file: str) -> None:
    """Evaluate, and print the metrics by name as one line of JSON."""
    settings = json.loads(Path(settings_file).read_text())
    with tempfile.TemporaryDirectory() as scratch:
        context = StageContext(
            params=PretrainEvaluationParams.model_validate_json(json.dumps(settings["params"])),
            inputs={CHECKPOINT: Path(settings["checkpoint"])},
            seed=0,
            device="cpu",
            rank=0,
            world_size=1,
            work_dir=Path(scratch),
            resume_dir=None,
            report=lambda _metrics, _checkpoint: None,
            save=lambda _: None,
            should_stop=lambda: False,
            emit=lambda _: None,
        )
        result = run(context)
    print(json.dumps({metric.name: metric.value for metric in result.metrics}))


if __name__ == "__main__":
    main(*sys.argv[1:])
