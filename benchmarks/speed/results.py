"""The measurements of one entry, as values: rates, ratios, memory and shares of the roofs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from benchmarks.speed.memory import peak_bytes
from benchmarks.speed.networks import Entry
from benchmarks.speed.roofs import Roofs
from benchmarks.speed.rounds import Spread
from benchmarks.speed.settings import Case, Run
from benchmarks.speed.traffic import moved_bytes

_FORWARDS = {"forward": 1, "train": 3}
"""How many forward passes a step counts as.

A backward pass has two products for each product of the forward pass. Work that checkpointing
repeats is not counted.
"""
_COUNTABLE: tuple[Run, ...] = ("eager", "checkpointed")


@dataclass(frozen=True)
class Counts:
    """Counts of one step, which are the same in every round."""

    flops: int
    moved_bytes: int | None
    """None: compiled code hides what it moves."""
    peak_bytes: int
    held_bytes: int


@dataclass(frozen=True)
class Result:
    """An entry's rounds and counts. Ratios compare images a second within each round."""

    model: str
    run: Run
    case: Case
    step_s: tuple[float, ...]
    counts: Counts
    roofs: Roofs
    ratio_to_rival: Spread | None
    """The ratio to the first rival, run in the same way; None if that was not measured."""
    ratio_to_eager: Spread | None
    """The ratio to the same network run eagerly; None for the eager run itself."""

    @property
    def images_per_s(self) -> Spread:
        return Spread.of([self.case.batch_size / step_s for step_s in self.step_s])

    @property
    def flops_per_s(self) -> float:
        return self.counts.flops * self.images_per_s.median / self.case.batch_size

    @property
    def bytes_per_s(self) -> float | None:
        moved = self.counts.moved_bytes
        return None if moved is None else moved * self.images_per_s.median / self.case.batch_size

    @property
    def share_of_matmul(self) -> float:
        return self.flops_per_s / self.roofs.matmul_flops_per_s

    @property
    def share_of_copy(self) -> float | None:
        return None if self.bytes_per_s is None else self.bytes_per_s / self.roofs.copy_bytes_per_s

    def to_dict(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "run": self.run,
            **asdict(self.case),
            "images_per_s": self.images_per_s._asdict(),
            "ratio_to_rival": self.ratio_to_rival and self.ratio_to_rival._asdict(),
            "ratio_to_eager": self.ratio_to_eager and self.ratio_to_eager._asdict(),
            "flops_per_s": self.flops_per_s,
            "share_of_matmul": self.share_of_matmul,
            "bytes_per_s": self.bytes_per_s,
            "share_of_copy": self.share_of_copy,
            "step": asdict(self.counts),
            "step_s": self.step_s,
        }


def count(entry: Entry, device: torch.device) -> Counts:
    """Count an entry in two more steps, one per counter, because counters slow a step down."""
    case, network = entry.case, entry.network
    entry.prepare()
    return Counts(
        flops=network.flops_per_image * case.batch_size * _FORWARDS[case.mode],
        moved_bytes=moved_bytes(entry.step) if entry.run in _COUNTABLE else None,
        peak_bytes=peak_bytes(entry.step, device),
        held_bytes=network.held_bytes(is_training=case.mode == "train"),
    )


def compare(step_s: Sequence[float], to: Sequence[float] | None) -> Spread | None:
    """How many times faster than `to` each round was; None without `to`."""
    return None if to is None else Spread.of([b / a for a, b in zip(step_s, to, strict=True)])
