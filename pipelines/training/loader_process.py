"""What a loader process does first."""

from __future__ import annotations

import multiprocessing
import os
import threading


def end_with_trainer(_: int) -> None:
    """End this process when the one that it loads for is gone, also if that was killed with -9.
    A `worker_init_fn` of torch's DataLoader.

    torch looks only whether its parent has changed. The parent of a loader process is the fork
    server, and that waits for all its processes.
    """
    threading.Thread(target=_await_end_of_trainer, name="trainer", daemon=True).start()


def _await_end_of_trainer() -> None:
    trainer = multiprocessing.parent_process()  # not the fork server
    assert trainer is not None
    trainer.join()
    os._exit(1)
