"""Requests go several at a time, and the first error ends them."""

from __future__ import annotations

import threading
import time
from itertools import count

import pytest

from orchestrator.errors import StoreError
from orchestrator.store.pool import for_each

DEADLINE_S = 60.0


def test_items_are_done_at_the_same_time_and_answered_in_order() -> None:
    meeting = threading.Barrier(4)

    def meet(item: int) -> int:
        meeting.wait(DEADLINE_S)
        return item * 10

    assert for_each(meet, range(8), num_threads=4) == [0, 10, 20, 30, 40, 50, 60, 70]


def test_an_error_is_raised_and_the_rest_is_not_begun() -> None:
    num_begun = count()

    def fail(item: int) -> None:
        next(num_begun)
        time.sleep(0.001)  # so that the items are not all begun before the first error is seen
        raise StoreError(f"item {item}")

    with pytest.raises(StoreError, match=r"^item 0$"):
        for_each(fail, range(100_000), num_threads=2)
    assert next(num_begun) < 100_000
