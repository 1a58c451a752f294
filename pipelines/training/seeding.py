"""Random streams that are named by what they are for, so that no two of them draw the same
numbers."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import torch

from pipelines.training.thread_generators import seed_this_thread


class Stream(IntEnum):
    """What random numbers are drawn for."""

    WEIGHTS = 0
    ORDER = 1
    IMAGE = 2
    UPDATES = 3


def seeds(stream: Stream, *numbers: int) -> np.random.SeedSequence:
    """The seeds of `stream` for `numbers` (seed, epoch, image or rank)."""
    return np.random.SeedSequence(numbers, spawn_key=(stream,))


def seed_generators(sequence: np.random.SeedSequence) -> None:
    """Seed this thread's generators of Python and NumPy, and PyTorch's of the CPU.

    The transforms of timm, mmdet and mmseg draw from them, and mixup does.
    """
    python, numpy, pytorch = (int(word) for word in sequence.generate_state(3))
    seed_this_thread(python, numpy)
    torch.default_generator.manual_seed(pytorch)


def seed_all(sequence: np.random.SeedSequence) -> None:
    """As `seed_generators`, and the generators of the GPUs too."""
    seed_generators(sequence)
    # torch.manual_seed writes down its caller for each kind of device that is not there: 0.4 ms an
    # update.
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(int(sequence.generate_state(3)[2]))
