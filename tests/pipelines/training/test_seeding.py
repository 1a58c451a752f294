"""A thread that seeds Python's and NumPy's random functions has its own generators."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pipelines.training.seeding import seed_this_thread


def _in_another_thread(work: Callable[[], Any]) -> Any:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    thread.join()
    return results[0]


def _draws() -> list[Any]:
    return [
        random.random(),
        random.gauss(0, 1),
        random.choice("abc"),
        random.sample(range(9), 3),
        random.getrandbits(40),
        np.random.rand(),
        np.random.beta(0.8, 0.8),
        np.random.permutation(5).tolist(),
        np.random.ranf(),
        np.random.sample(),
    ]


def _seeded_draws() -> list[Any]:
    seed_this_thread(1, 2)
    return _draws()


def test_draws_of_a_thread_do_not_depend_on_other_threads() -> None:
    expected = _in_another_thread(_seeded_draws)
    seed_this_thread(1, 2)
    _in_another_thread(_draws)
    assert _draws() == expected


def test_thread_generator_matches_the_global_functions() -> None:
    python, numpy = random.Random(1), np.random.RandomState(2)
    draws = _in_another_thread(_seeded_draws)
    assert draws[0] == python.random()
    assert draws[5] == numpy.rand()


@pytest.mark.parametrize("seed", [random.seed, np.random.seed], ids=["random", "numpy"])
def test_seeding_another_thread_changes_nothing_here(seed: Callable[[int], None]) -> None:
    expected = _in_another_thread(_seeded_draws)
    seed_this_thread(1, 2)
    _in_another_thread(lambda: seed(5))
    assert _draws() == expected


def test_states_are_saved_and_restored_in_the_calling_thread() -> None:
    seed_this_thread(1, 2)
    states = random.getstate(), np.random.get_state()
    expected = _draws()
    random.setstate(states[0])
    np.random.set_state(states[1])
    assert _draws() == expected


def test_unseeded_threads_share_the_process_generators() -> None:
    seed_this_thread(1, 2)
    _in_another_thread(lambda: (random.seed(7), np.random.seed(7)))
    shared = _in_another_thread(_draws)
    assert shared[0] == random.Random(7).random()
