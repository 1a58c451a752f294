"""A thread that draws random numbers all the time, like an upload to a busy server does
occasionally."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

_captured = random.random  # botocore keeps this function as a default argument


@contextmanager
def drawing_in_another_thread() -> Iterator[None]:
    is_over = threading.Event()

    def draw() -> None:
        while not is_over.is_set():
            _captured()
            random.random()
            random.getrandbits(8)
            np.random.rand()
            time.sleep(1e-5)

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
