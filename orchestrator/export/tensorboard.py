"""Curves and metrics -> event files that TensorBoard reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tensorboardX import SummaryWriter

from orchestrator.artifact import Manifest
from orchestrator.history import Curve, StageHistory

FINAL = "final"
"""The group of a finished stage's metrics."""


class EventFiles:
    """A folder of event files, one subfolder for each stage. Points that were written before are
    not written again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writers: dict[str, Any] = {}
        self._written: dict[tuple[str, str], float] = {}
        """By stage and metric, the last `done` that was written."""
        self._finished: set[str] = set()
        self.num_points = 0

    @property
    def num_stages(self) -> int:
        return len(self._writers)

    def write(
        self, histories: Mapping[str, StageHistory], manifests: Mapping[str, Manifest]
    ) -> None:
        """Write what is new, by stage. Raises OSError if the folder cannot be written."""
        for stage, history in histories.items():
            for metric, curve in history.curves.items():
                self._write_curve(stage, metric, curve)
        for stage in manifests.keys() - self._finished:
            self._write_final(stage, manifests[stage])
        for writer in self._writers.values():
            writer.flush()

    def _write_curve(self, stage: str, metric: str, curve: Curve) -> None:
        last = self._written.get((stage, metric), float("-inf"))
        if curve.done and curve.done[-1] < last:
            # a later attempt resumed before it: what follows replaces what was written
            self._purge(stage, min(curve.done))
            last = float("-inf")
        points = zip(curve.done, curve.steps, curve.values, curve.times_s, strict=True)
        for done, step, value, time_s in points:
            if done > last:
                self._writer(stage).add_scalar(metric, value, step, time_s)
                self.num_points += 1
        if curve.done:
            self._written[stage, metric] = curve.done[-1]

    def _write_final(self, stage: str, manifest: Manifest) -> None:
        finished_s = manifest.provenance.get("finished_at_s")
        for metric in manifest.metrics:
            self._writer(stage).add_scalar(f"{FINAL}/{metric.name}", metric.value, 0, finished_s)
            self.num_points += 1
        self._finished.add(stage)

    def _purge(self, stage: str, done: float) -> None:
        """Make TensorBoard forget the stage's points from `done` on."""
        self._writers.pop(stage).close()
        self._writers[stage] = SummaryWriter(str(self._folder / stage), purge_step=int(done))
        for key in [key for key in self._written if key[0] == stage]:
            del self._written[key]

    def _writer(self, stage: str) -> Any:
        if stage not in self._writers:
            self._writers[stage] = SummaryWriter(str(self._folder / stage))
        return self._writers[stage]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for writer in self._writers.values():
            writer.close()
