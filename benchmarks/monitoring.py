"""`python -m benchmarks.monitoring`: what it costs to watch a training.

Watched: on a cluster with Ray's dashboard, whose metrics are scraped every second, with logs in the
store, and the live page open. Unwatched: on the Ray that `run` starts, without logs. Both train the
same network, in alternating order. Images a second are compared as in `benchmarks.overhead`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.command import at_least, start_module
from benchmarks.overhead import Side, train_ours, training_settings, write_job
from benchmarks.speed.machine import describe_machine
from benchmarks.speed.rounds import Spread

BAR = 0.99
PORTS = {
    "port": 36379,
    "dashboard-port": 38265,
    "dashboard-agent-listen-port": 38266,
    "metrics-export-port": 38267,
    "ray-client-server-port": 38268,
}
PAGE_PORT = 38500
START_TIMEOUT_S = 300
UNWATCHED = {"ORCHESTRATOR_LOG_LIMIT_MB": "0", "RAY_AUTH_MODE": "disabled"}


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 if the ratio reaches the bar, else 1."""
    parser = argparse.ArgumentParser(prog="benchmarks.monitoring", description=__doc__)
    parser.add_argument("--rounds", type=at_least(1), default=5)
    parser.add_argument("--epochs", type=at_least(2), default=6)
    options = parser.parse_args(arguments)
    print(f"{describe_machine(torch.device('cpu'))['device']}, one worker, one thread")
    ratios = []
    with tempfile.TemporaryDirectory(prefix="monitoring-") as scratch:
        settings = training_settings(Path(scratch), epochs=options.epochs)
        for number in range(options.rounds):
            folder = Path(scratch, f"round{number}")
            ratios.append(_round(folder, settings, number))
    spread = Spread.of(ratios)
    is_met = spread.median >= BAR
    print(
        f"watched / unwatched: {spread.median:.3f} ({spread.min:.3f}..{spread.max:.3f} in "
        f"{len(ratios)} rounds); bar >= {BAR}: {'met' if is_met else 'MISSED'}"
    )
    return 0 if is_met else 1


def _round(folder: Path, settings: Mapping[str, Any], number: int) -> float:
    """Run both sides, the watched one first in every second round. Returns the ratio."""
    sides = {"watched": _train_watched, "unwatched": _train_unwatched}
    done: dict[str, Side] = {}
    for name in sorted(sides, reverse=number % 2 == 0):
        (folder / name).mkdir(parents=True)
        done[name] = sides[name](folder / name, settings)
    ratio = done["watched"].median / done["unwatched"].median
    print(
        f"round {number + 1}: watched {done['watched'].median:.1f} images/s, unwatched "
        f"{done['unwatched'].median:.1f}, ratio {ratio:.3f}; start-up "
        f"{done['watched'].startup_s:.1f} and {done['unwatched'].startup_s:.1f} s",
        flush=True,
    )
    return ratio


def _train_unwatched(folder: Path, settings: Mapping[str, Any]) -> Side:
    return train_ours(folder, settings, environment=UNWATCHED)


def _train_watched(folder: Path, settings: Mapping[str, Any]) -> Side:
    job = write_job(folder, settings)
    # Paths of sockets have a maximum length.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as ray:
        environment = {"RAY_TMPDIR": ray, "RAY_AUTH_MODE": "disabled"}
        ports = [f"--{name}={number}" for name, number in PORTS.items()]
        head = ("start", "--head", "--block", "--num-cpus=2", f"--temp-dir={ray}", *ports)
        page = ("dashboard", str(job), "--port", str(PAGE_PORT))
        with (
            _started("ray.scripts.scripts", *head, environment=environment),
            _started("orchestrator", *page, environment=environment),
            _asked(f"http://127.0.0.1:{PORTS['metrics-export-port']}/metrics", every_s=1),
            _asked(f"http://127.0.0.1:{PAGE_PORT}/updates", every_s=2),
        ):
            address = f"127.0.0.1:{PORTS['port']}"
            return train_ours(folder, settings, "--address", address, environment=environment)


@contextmanager
def _started(module: str, *arguments: str, environment: Mapping[str, str]) -> Iterator[None]:
    """A process that is ended with the block."""
    with Path("/dev/null").open("wb") as nowhere:
        process = start_module(
            module, *arguments, stdout=nowhere, stderr=nowhere, environment=environment
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait()


@contextmanager
def _asked(url: str, *, every_s: float) -> Iterator[None]:
    """A URL that answers, and is asked again and again within the block, as a watcher does."""
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while not _answers(url):
        if time.monotonic() > deadline_s:
            sys.exit(f"{url} does not answer")
        time.sleep(0.5)
    is_over = threading.Event()

    def ask() -> None:
        while not is_over.wait(every_s):
            _answers(url)

    watcher = threading.Thread(target=ask)
    watcher.start()
    try:
        yield
    finally:
        is_over.set()
        watcher.join()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310  of our own making
            return bool(answer.read())
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main())
