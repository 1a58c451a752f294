"""A training's checkpoints on their way to the store: what each holds, and which was the last."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from orchestrator.contract import StageContext
from pipelines.pretrain.engine import Trainer
from pipelines.pretrain.progress import Progress
from pipelines.pretrain.state import load_state, save_state


@dataclass
class Checkpoints:
    """Writes the states of `trainer`; every rank has one, and rank 0's writes."""

    context: StageContext
    trainer: Trainer
    last: str = "there is no checkpoint yet"
    """The last one in words, for an error."""

    def load(self) -> Progress:
        """The progress of an earlier attempt, its state put into the trainer; that of a fresh start without one."""
        if self.context.resume_dir is None:
            return Progress()
        progress = load_state(self.context.resume_dir, self.trainer)
        self._remember(progress)
        return progress

    def write(self, progress: Progress) -> Path | None:
        """The folder of a new checkpoint, to be handed over; None on other ranks than 0."""
        self._remember(progress)
        if self.context.rank != 0:
            return None
        directory = self.context.work_dir / f"epoch_{progress.epoch:04d}_update_{progress.num_updates:06d}"
        save_state(directory, progress, self.trainer)
        return directory

    def _remember(self, progress: Progress) -> None:
        part = f" and {progress.num_updates} updates" if progress.num_updates else ""
        self.last = f"the last checkpoint stands after {progress.epoch} epochs{part}"
