"""Random streams named by their purpose, so that no two draw the same numbers, and generators per
thread.

`random` and `numpy.random` draw from one generator for the whole process. If another thread draws
in the middle of an augmentation, all later numbers change. For example, botocore draws its waits
between two tries of a request, so an upload that met a busy server changed the weights. Libraries
that augment images call these functions and accept no generator, so the functions are replaced.
PyTorch's functions are not replaced: no other thread of a worker draws from its generators.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping
from enum import IntEnum
from functools import wraps
from types import ModuleType
from typing import Any

import numpy as np
import torch


class Stream(IntEnum):
    """The purpose of a stream of random numbers."""

    WEIGHTS = 0
    ORDER = 1
    IMAGE = 2
    UPDATES = 3


def seeds(stream: Stream, *numbers: int) -> np.random.SeedSequence:
    """The seeds of `stream` for `numbers` (such as seed, epoch, and image or rank)."""
    return np.random.SeedSequence(numbers, spawn_key=(stream,))


def seed_generators(sequence: np.random.SeedSequence) -> None:
    """Seed this thread's generators of Python and NumPy, and PyTorch's CPU generator.

    The transforms of timm, mmdet and mmseg draw from them, and so does mixup.
    """
    python, numpy, pytorch = (int(word) for word in sequence.generate_state(3))
    seed_this_thread(python, numpy)
    torch.default_generator.manual_seed(pytorch)


def seed_all(sequence: np.random.SeedSequence) -> None:
    """Like `seed_generators`, and also seed the generators of the GPUs."""
    seed_generators(sequence)
    # torch.manual_seed records its caller for each kind of device that is missing: 0.4 ms per
    # update.
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(int(sequence.generate_state(3)[2]))


class _Generators(threading.local):
    """The generators of a thread; both are None in a thread that uses the process's generators."""

    python: random.Random | None = None
    numpy: np.random.RandomState | None = None


_of_thread = _Generators()


_METHOD_OF = {"ranf": "random_sample", "sample": "random_sample", "seed": "seed"}
"""Functions of `numpy.random` that are not bound to its generator, and the methods that they
call."""


_installing = threading.Lock()


def seed_this_thread(python_seed: int, numpy_seed: int) -> None:
    """Seed both generators of this thread; the first call creates them. Other threads cannot reach
    them."""
    if _of_thread.python is None:
        _install()
        _of_thread.python, _of_thread.numpy = random.Random(), np.random.RandomState()  # noqa: S311
    random.seed(python_seed)
    np.random.seed(numpy_seed)


def _install() -> None:
    """Replace the functions of both modules, once per process."""
    with _installing:
        if not hasattr(random.random, "__wrapped__"):
            _replace(random, random.Random, lambda: _of_thread.python, {})
            _replace(np.random, np.random.RandomState, lambda: _of_thread.numpy, _METHOD_OF)


def _replace(
    module: ModuleType, generator: type, own: Callable[[], Any], method_of: Mapping[str, str]
) -> None:
    """Make the module's functions that draw from its `generator` draw from `own()` if that is not
    None."""
    for name in module.__all__:
        function = getattr(module, name)
        if name in method_of or isinstance(getattr(function, "__self__", None), generator):
            setattr(module, name, _dispatching(function, own, method_of.get(name, name)))


def _dispatching(
    shared: Callable[..., Any], own: Callable[[], Any], method: str
) -> Callable[..., Any]:
    @wraps(shared)
    def function(*args: Any, **kwargs: Any) -> Any:
        generator = own()
        return (shared if generator is None else getattr(generator, method))(*args, **kwargs)

    return function
