"""Proves on this machine that a killed training ends like an uninterrupted one: `python -m
pipelines.pretrain.prove_resume`.

It trains twice with `python -m orchestrator run`, on sample data with two workers and the whole
recipe. The first training runs straight through. The second is killed with SIGKILL at random
moments, a worker and the driver in turn, and started again. Then it compares the weights bit for
bit, and the metric logs with their digests of the order of samples. Exit code 0: they are equal, 1:
they differ.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.artifact import Manifest
from orchestrator.streams import exit_code_of

JOB = """
name: prove_resume
store: {store}
stages:
  pretrain:
    kind: pretrain
    data: sample:digits
    model: {{embed_dim: 16, depths: [1, 1, 1, 1], num_heads: [1, 2, 2, 4], img_size: 56}}
    epochs: {epochs}
    lr: 2.0e-3
    warmup_epochs: 1
    batch_size: 32
    drop_path_rate: 0.1
    ema_decay: 0.99
    loader_workers: 0
    checkpoint_every: {{steps: 5}}
    resources: {{workers: 2}}
"""
WHAT_CLOCKS_SAY = ("images_per_s", "data_wait")
DEADLINE_S = 600
"""Time limit of a run, which takes about a minute on two cores."""


@dataclass(frozen=True)
class Ended:
    """The results of a finished training in its store."""

    files: dict[str, str]
    """sha256 of the classifier's files, by name."""
    log: list[dict[str, Any]]
    """The metric log without the fields that clocks determine."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument(
        "--kills", type=int, default=3, help="number of kills of the second training (3)"
    )
    parser.add_argument("--epochs", type=int, default=3, help="epochs of each training (3)")
    parser.add_argument(
        "--seed",
        type=int,
        default=None,
        help="seed for the moments of the kills (random)",
    )
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(2**16)
    _print_line(f"moments of the kills are drawn with --seed {seed}")
    with tempfile.TemporaryDirectory(prefix="prove-resume-") as scratch:
        rng = random.Random(seed)  # noqa: S311
        return _prove(Path(scratch), epochs=options.epochs, num_kills=options.kills, rng=rng)


def _prove(scratch: Path, *, epochs: int, num_kills: int, rng: random.Random) -> int:
    jobs = {}
    for name in ("straight", "killed"):
        jobs[name] = scratch / f"{name}.yaml"
        jobs[name].write_text(JOB.format(store=scratch / name, epochs=epochs))
    began_s = time.monotonic()
    _finish(jobs["straight"])
    straight = _ended(scratch / "straight")
    _print_line(f"straight: {epochs} epochs, {time.monotonic() - began_s:.0f} s")
    for number in range(num_kills):
        _kill_one(
            jobs["killed"], scratch / "killed", victim=("worker", "driver")[number % 2], rng=rng
        )
    _finish(jobs["killed"])
    return _compare(straight, _ended(scratch / "killed"))


def _compare(straight: Ended, killed: Ended) -> int:
    same_weights, same_log = straight.files == killed.files, straight.log == killed.log
    for record in killed.log:
        _print_line(
            f"epoch {record['epoch']}: loss {record['loss']!r}, order of samples "
            f"{record['samples_sha256'][:16]}"
        )
    _print_line(
        f"weights, {straight.files['model.safetensors'][:16]}: "
        f"{'equal' if same_weights else 'DIFFERENT'} bit for bit"
    )
    _print_line(f"losses, scores and order of samples: {'equal' if same_log else 'DIFFERENT'}")
    if not same_log:
        _print_line(f"straight: {json.dumps(straight.log)}")
        _print_line(f"killed:   {json.dumps(killed.log)}")
    return 0 if same_weights and same_log else 1


def _start(job: Path) -> subprocess.Popen[bytes]:
    # Uses its own local Ray below the driver, where its workers are found. Bitwise equality needs
    # one order of summation, for any number of cores.
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= {"OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, "-m", "orchestrator", "run", str(job)]
    output = job.with_suffix(".log").open("ab")
    return subprocess.Popen(  # noqa: S603  our own arguments
        command, env=environment, stdout=output, stderr=output, start_new_session=True
    )


def _finish(job: Path) -> None:
    """Run the job to its end. Raises SystemExit with the end of its output if it fails."""
    process = _start(job)
    try:
        code = process.wait(timeout=DEADLINE_S)
    except subprocess.TimeoutExpired:
        _kill_all(process.pid)
        code = -1
    if code != 0:
        sys.exit(f"{job.name} ended with {code}; {_end_of_output(job)}")


def _end_of_output(job: Path) -> str:
    return f"the end of its output:\n{job.with_suffix('.log').read_text(errors='replace')[-3000:]}"


def _kill_one(job: Path, store: Path, *, victim: str, rng: random.Random) -> None:
    """Start the job, wait for a new checkpoint and a moment more, and kill the driver, or a worker
    and then the driver.

    The run survives a killed worker; its driver is killed after the next checkpoint.
    """
    process = _start(job)
    try:
        _await_moment(process, job, store, rng)
        if victim == "worker":
            pid = rng.choice(_workers(process.pid))
            os.kill(pid, signal.SIGKILL)
            _print_line(f"killed worker {pid} with 9 after checkpoint {_num_checkpoints(store)}")
            _await_moment(process, job, store, rng)
        _print_line(f"killing the driver with 9 after checkpoint {_num_checkpoints(store)}")
    finally:
        _kill_all(process.pid)
        process.wait()


def _await_moment(
    process: subprocess.Popen[bytes], job: Path, store: Path, rng: random.Random
) -> None:
    """Wait for workers, for one to three new checkpoints, and for part of the time until the next.

    Three epochs write 27 checkpoints, and the five moments of three kills use at most 20, so the
    training does not end before them.
    """
    _await(process, job, lambda: bool(_workers(process.pid)))
    wanted = _num_checkpoints(store) + rng.randint(1, 3)
    _await(process, job, lambda: _num_checkpoints(store) >= wanted and bool(_workers(process.pid)))
    time.sleep(rng.uniform(0, 0.5))


def _await(process: subprocess.Popen[bytes], job: Path, is_so: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not is_so():
        if (code := process.poll()) is not None:
            why = "before it could be killed; with 0, give it more --epochs"
            sys.exit(f"{job.name} ended with {code} {why}; {_end_of_output(job)}")
        if time.monotonic() > deadline_s:
            sys.exit(f"{job.name} wrote no checkpoint within {DEADLINE_S} s; {_end_of_output(job)}")
        time.sleep(0.05)


def _num_checkpoints(store: Path) -> int:
    """The number of the newest sealed checkpoint."""
    seals = store.glob("train/*/checkpoints/*.json")
    return max((int(seal.stem.partition("-")[0]) for seal in seals), default=0)


def _workers(driver: int) -> list[int]:
    """Process ids of the training's workers below `driver`."""
    return [pid for pid in _descendants(driver) if b"RayTrainWorker" in _command(pid)]


def _kill_all(driver: int) -> None:
    """Kill a run with SIGKILL: the driver first, then its local Ray, whose processes are looked up
    before."""
    for pid in [driver, *_descendants(driver)]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _descendants(pid: int) -> list[int]:
    """Process ids below `pid`, found in /proc (Linux only)."""
    children = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children[int(stat.parent.name)] = int(fields[1])
    return list(_below(pid, children))


def _below(pid: int, parents: dict[int, int]) -> Iterator[int]:
    for child, parent in parents.items():
        if parent == pid:
            yield child
            yield from _below(child, parents)


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _ended(store: Path) -> Ended:
    (path,) = (store / "manifests").glob("*.json")
    manifest = Manifest.from_json(path.read_bytes(), where=str(path))
    (log,) = manifest.artifacts["log"].files
    lines = (store / "blobs" / "sha256" / log.sha256[:2] / log.sha256).read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return Ended(
        files={file.path: file.sha256 for file in manifest.artifacts["checkpoint"].files},
        log=[
            {name: value for name, value in record.items() if name not in WHAT_CLOCKS_SAY}
            for record in records
        ],
    )


def _print_line(text: str) -> None:
    print(text, flush=True)  # noqa: T201  run by `python -m`


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
