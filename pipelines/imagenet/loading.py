"""Loads batches in other processes and raises their errors unchanged."""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from orchestrator.errors import OrchestratorError
from pipelines.imagenet.dataset import Batch, Images, Sample, SampleIndex, collate
from pipelines.training.loader_process import end_with_trainer


class Loader:
    """The batches of `images` selected by `draws`, from `num_workers` processes that outlive each
    pass.

    A fork server starts the processes, because a worker with threads and CUDA cannot fork safely.
    """

    def __init__(
        self,
        images: Images,
        draws: Sampler[SampleIndex],
        *,
        batch_size: int,
        num_workers: int,
        pin_memory: bool,
    ) -> None:
        if num_workers:
            _start_fork_server()
        self._batches: DataLoader[Any] = DataLoader(
            _Carrying(images),
            batch_size=batch_size,
            sampler=draws,
            num_workers=num_workers,
            collate_fn=_collate,
            pin_memory=pin_memory,
            multiprocessing_context="forkserver" if num_workers else None,
            persistent_workers=num_workers > 0,
            worker_init_fn=end_with_trainer,
            # A separate generator: otherwise loaders would draw from the training loop's.
            generator=torch.Generator(),
        )

    def __len__(self) -> int:
        """Number of batches."""
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        """Yields batches. Raises the errors of `images`, and torch's RuntimeError for a process
        that was killed."""
        try:
            for batch in self._batches:
                if isinstance(batch, OrchestratorError):
                    raise batch
                yield batch
        except (EOFError, ConnectionError, FileNotFoundError) as err:
            # `images` handle such errors themselves; one here means that a process was killed while
            # it passed on a batch.
            raise RuntimeError(
                f"DataLoader worker (pid unknown) is gone: {str(err) or type(err).__name__}"
            ) from err


def _start_fork_server() -> None:
    """Start the fork server, unless it runs. It imports this module in the background."""
    multiprocessing.set_forkserver_preload(["__main__", __name__])
    multiprocessing.forkserver.ensure_running()


class _Carrying(Dataset[Any]):
    """Images that return their errors as values; DataLoader would wrap an exception in its own
    message and a traceback."""

    def __init__(self, images: Images) -> None:
        self._images = images

    def __getitems__(self, draws: Sequence[SampleIndex]) -> list[Sample] | OrchestratorError:
        try:
            return [self._images[draw] for draw in draws]
        except OrchestratorError as err:
            return err


def _collate(samples: list[Sample] | OrchestratorError) -> Batch | OrchestratorError:
    return samples if isinstance(samples, OrchestratorError) else collate(samples)
