"""Two small kinds for the tests of job files: `train` writes a checkpoint, `finetune` reads it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from orchestrator.artifact import digest_of
from orchestrator.contract import Check, DataDir, Evaluation, Input, Kind, Misfit, Params, Role
from orchestrator.spec import Job, load_job


class Network(Params):
    embed_dim: Annotated[int, Field(ge=1)] = 32
    depths: tuple[Annotated[int, Field(ge=1)], ...] = (1, 1)
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.1


class TrainParams(Params):
    data: DataDir
    model: Literal["cat_tiny", "cat_small"] | Network = "cat_tiny"
    epochs: Annotated[int, Field(ge=1)] = 10
    warmup_epochs: Annotated[int, Field(ge=0)] = 0
    lr: Annotated[float, Field(gt=0, le=1)] | None = None
    scale: tuple[float, float] = (0.6, 1.0)
    flip: bool = True
    label: str = ""
    loader_workers: Annotated[int, Role.OUTSIDE_KEY] = 2

    def checks(self) -> tuple[Check, ...]:
        return (self._warmup_fits,)

    def _warmup_fits(self) -> Iterator[Misfit]:
        if self.warmup_epochs > self.epochs:
            message = f"warmup_epochs ({self.warmup_epochs}) must be at most epochs ({self.epochs})"
            yield Misfit(("warmup_epochs",), message)


class FinetuneParams(Params):
    backbone: Input
    teacher: Annotated[str | None, Role.INPUT] = None
    data: DataDir
    lr: float = 0.1


class FinetuneEvaluationParams(FinetuneParams):
    num_shown: Annotated[int, Field(ge=0), Role.ADDS] = 8


def _no_data(_: Params) -> str:
    return digest_of([])


TRAIN = Kind(
    name="train",
    version=1,
    params=TrainParams,
    inputs={},
    outputs=("checkpoint", "log"),
    metrics=lambda params: ("top1", "top5") if params.flip else ("top1",),
    fingerprint=_no_data,
    entry=None,
    fits_workers=lambda params, num_workers: num_workers <= params.epochs,
    evaluation=Evaluation(
        entry="none:none",
        metrics=lambda _: ("top1", "params_m"),
        fingerprint=_no_data,
        takes_file=True,
    ),
)
FINETUNE = Kind(
    name="finetune",
    version=1,
    params=FinetuneParams,
    inputs={
        "backbone": frozenset({"train.checkpoint"}),
        "teacher": frozenset({"train.checkpoint"}),
    },
    outputs=("report", "checkpoint"),
    metrics=lambda _: ("miou",),
    fingerprint=_no_data,
    entry=None,
    from_outside=frozenset({"teacher"}),
    evaluation=Evaluation(
        entry="none:none",
        metrics=lambda _: ("miou",),
        fingerprint=_no_data,
        params=FinetuneEvaluationParams,
        outputs=("details",),
    ),
)
KINDS = {kind.name: kind for kind in (TRAIN, FINETUNE)}

GOOD = """\
# comments stay comments
name: digits
store: ./artifacts
seed: 7
stages:
  search:
    kind: tune
    of: pretrain
    space: {lr: {loguniform: [1e-4, 1e-2]}, model.drop_path: {choice: [0.0, 0.2]}}
    num_trials: 3
    overrides: {epochs: 2}
  pretrain:
    kind: train
    params_from: search.best_params
    data: data/digits
    model: {embed_dim: 16, depths: [1, 2]}
    lr: 1e-3
    label: on
    resources: {workers: 2, gpus_per_worker: 0.5}
    expect: {top1: ">= 95"}
  segment: {kind: finetune, backbone: pretrain.checkpoint, data: /scenes, seed: 3}
"""


def load_text(text: str, folder: Path, *overrides: str, store: str | None = None) -> Job:
    """Write `text` to `job.yaml` in `folder` and return the job."""
    (folder / "job.yaml").write_text(text)
    return load_job(
        folder / "job.yaml", kinds=KINDS, overrides=overrides, store=store, base_dir=folder
    )
