"""A small set of real scans and a network small enough to train in a second."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.contract import Event, StageContext
from pipelines.pretrain.params import PretrainEvaluationParams, PretrainParams
from pipelines.sample.layouts import imagenet_files
from pipelines.sample.scans import load_scans, split_scans

TOY = {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "img_size": 28}


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 training and 30 validation images of 10 classes."""
    root = tmp_path_factory.mktemp("digits")
    scans_of = split_scans(load_scans(), scans_per_class=15)
    for path, content in [
        *imagenet_files("train", scans_of["train"]),
        *imagenet_files("val", scans_of["val"]),
    ]:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return root / "imagenet"


@dataclass
class Recorder:
    """Receives a stage's reports and events; keeps the last checkpoint's bytes, like the cluster
    does."""

    kept_dir: Path
    metrics: list[dict[str, float]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    saved: list[str] = field(default_factory=list)
    """Names of the checkpoint folders."""
    stops_after: int | None = None
    """Number of updates of the attempt after which it asks to stop."""
    num_asked: int = 0

    def report(self, metrics: Mapping[str, float], checkpoint_dir: Path | None) -> None:
        self.metrics.append(dict(metrics))
        if checkpoint_dir is not None:
            self.save(checkpoint_dir)

    def should_stop(self) -> bool:
        self.num_asked += 1
        return self.num_asked == self.stops_after

    def save(self, checkpoint_dir: Path) -> None:
        self.saved.append(checkpoint_dir.name)
        self.kept_dir.mkdir(parents=True, exist_ok=True)
        for path in checkpoint_dir.iterdir():
            (self.kept_dir / path.name).write_bytes(path.read_bytes())
        shutil.rmtree(checkpoint_dir)


MakeContext = Callable[..., tuple[StageContext, Recorder]]


@pytest.fixture
def make_context(data: Path, tmp_path: Path) -> MakeContext:
    """A context with the params of a quick run and `changes`, and the recorder of its reports."""
    made = 0

    def make(
        *, resume_dir: Path | None = None, world_size: int = 1, seed: int = 0, **changes: Any
    ) -> Any:
        nonlocal made
        made += 1
        work_dir = tmp_path / f"work{made}"
        work_dir.mkdir()
        recorder = Recorder(tmp_path / f"kept{made}")
        context = StageContext(
            params=make_params(data, **changes),
            inputs={},
            seed=seed,
            device="cpu",
            rank=0,
            world_size=world_size,
            work_dir=work_dir,
            resume_dir=resume_dir,
            report=recorder.report,
            save=recorder.save,
            should_stop=recorder.should_stop,
            emit=recorder.events.append,
        )
        return context, recorder

    return make


def make_params(folder: Path, **changes: Any) -> PretrainParams:
    quick = {
        "data": str(folder),
        "model": TOY,
        "epochs": 3,
        "batch_size": 40,
        "lr": 2e-3,
        "warmup_epochs": 1,
    }
    return PretrainParams.model_validate_json(json.dumps({**quick, "loader_workers": 0, **changes}))


def as_evaluation(context: StageContext, checkpoint: Path, **fields: Any) -> StageContext:
    """The context of an evaluation of `checkpoint`, with the params of a stage's `context` and
    other `fields`."""
    params = PretrainEvaluationParams.model_validate_json(
        json.dumps({**context.params.model_dump(mode="json"), **fields})
    )
    return replace(context, params=params, inputs={"checkpoint": checkpoint})
