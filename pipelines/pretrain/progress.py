"""The progress of a training: finished epochs with their figures, and the state of the unfinished
one. Values only."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Self

from pipelines.pretrain.scores import Scores


@dataclass(frozen=True)
class EpochRecord:
    """A line of the metric log: an epoch, counted from 1."""

    epoch: int
    loss: float
    """Mean over all updates that were not skipped, and over all ranks."""
    lr: float
    """Learning rate of the last update."""
    top1: float
    top5: float
    num_samples: int
    skipped_updates: int
    images_per_s: float
    """Over all ranks, excluding evaluation and checkpoints."""
    data_wait: float
    """Part of the training time that rank 0 waited for data, in %."""
    samples_sha256: str
    """Digest of the order of images on all ranks."""


@dataclass(frozen=True)
class Share:
    """What one rank has processed of an epoch."""

    loss_sum: float = 0.0
    samples_sha256: str = ""

    def seeing(self, indices: Iterable[int]) -> Self:
        """The share after training on the images at `indices`."""
        seen = ",".join(map(str, indices))
        return replace(
            self,
            samples_sha256=hashlib.sha256(f"{self.samples_sha256}:{seen}".encode()).hexdigest(),
        )


@dataclass(frozen=True)
class Progress:
    """Finished `epochs`, and `num_updates` of the next epoch; the figures of an epoch that has not
    begun are zero."""

    epochs: tuple[EpochRecord, ...] = ()
    num_updates: int = 0
    shares: tuple[Share, ...] = ()
    """By rank; empty if the epoch has not begun."""
    skipped_updates: int = 0
    """Skipped updates in the unfinished epoch."""
    trained_s: float = 0.0
    waited_s: float = 0.0
    broken: tuple[str, ...] = ()
    """Images found so far that cannot be decoded."""

    @property
    def epoch(self) -> int:
        """Number of finished epochs."""
        return len(self.epochs)

    @property
    def scores(self) -> Scores:
        """Scores of the last finished epoch."""
        last = self.epochs[-1]
        return Scores(last.top1, last.top5, last.num_samples)

    def share_of(self, rank: int, *, world_size: int) -> Share:
        """This rank's share. If the number of ranks changed, rank 0 takes the whole sum, scaled to
        keep the mean over ranks."""
        if not self.shares:
            return Share()
        if len(self.shares) == world_size:
            return self.shares[rank]
        total = sum(share.loss_sum for share in self.shares) / len(self.shares) * world_size
        return Share(total if rank == 0 else 0.0, joint_digest(self.shares))

    def to_dict(self) -> dict[str, Any]:
        """The progress as plain values, which `from_dict` reads."""
        content = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {
            **content,
            "epochs": [vars(record) for record in self.epochs],
            "shares": [vars(share) for share in self.shares],
            "broken": list(self.broken),
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Self:
        """The progress that `to_dict` wrote. Raises TypeError or KeyError for anything else."""
        parsed = {
            "epochs": tuple(EpochRecord(**record) for record in content["epochs"]),
            "shares": tuple(Share(**share) for share in content["shares"]),
            "broken": tuple(content["broken"]),
        }
        return cls(**{**content, **parsed})


def joint_digest(shares: Iterable[Share]) -> str:
    """One digest of the order of images on all ranks."""
    return hashlib.sha256(":".join(share.samples_sha256 for share in shares).encode()).hexdigest()
