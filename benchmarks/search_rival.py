"""`python -m benchmarks.search_rival PARAMS SEED`: a trial of benchmarks.search without Ray.

PARAMS is a JSON file with the params of a pretraining stage. The command prints its top-1.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from orchestrator.contract import StageContext
from pipelines.pretrain.params import PretrainParams
from pipelines.pretrain.train import run


def main(params: PretrainParams, seed: int) -> float:
    """Train and return top-1. Checkpoints are written as in a search, then deleted."""
    with tempfile.TemporaryDirectory(prefix="search-rival-") as work_dir:
        context = StageContext(
            params=params,
            inputs={},
            seed=seed,
            device="cpu",
            rank=0,
            world_size=1,
            work_dir=Path(work_dir),
            resume_dir=None,
            report=_report,
            save=shutil.rmtree,
            should_stop=lambda: False,
            emit=lambda _: None,
        )
        return next(metric.value for metric in run(context).metrics if metric.name == "top1")


def _report(metrics: Mapping[str, float], checkpoint_dir: Path | None) -> None:
    if checkpoint_dir is not None:
        shutil.rmtree(checkpoint_dir)


if __name__ == "__main__":
    print(
        main(PretrainParams.model_validate_json(Path(sys.argv[1]).read_bytes()), int(sys.argv[2]))
    )
