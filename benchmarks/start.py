"""`python -m benchmarks.start`: what one evaluation costs as a job, compared with a plain process.

Both sides evaluate a classifier with the network of jobs/quickstart.yaml on the sample. One side is
`python -m orchestrator run`, which starts its own Ray; the other is `benchmarks.start_rival`. They
run in alternating order, with one thread each. Both do the same work, so the difference is what Ray
and this pipeline add to the time that a user waits, and to the CPU-seconds of all processes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.command import Done, at_least, run_module
from benchmarks.process_tree import LOOK_EVERY_S, Meter, adopt_orphans
from benchmarks.speed.machine import describe_machine
from cat_model.weights.files import write_atomically
from orchestrator.artifact import Manifest
from orchestrator.contract import CHECKPOINT
from orchestrator.store import Store, open_store
from orchestrator.store.publish import fetch_artifact, load_manifest
from pipelines.sample.folder import Size, write_sample

MODEL = {"embed_dim": 32, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8], "img_size": 56}
"""The quickstart's network."""
WALL_BAR_S = 15
CPU_BAR_S = 14
"""Set on 2026-11-29 for a machine with two cores, where the same run used to take 27 s and 26
CPU-seconds."""
SCORES = ("top1", "top5")


@dataclass(frozen=True)
class Cost:
    """One evaluation: seconds that a user waits, and CPU-seconds of all its processes."""

    wall_s: float
    cpu_s: float
    scores: dict[str, float]


@dataclass(frozen=True)
class Round:
    ours: Cost
    rival: Cost


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 1 if the scores of the two sides differ, else 0."""
    options = _parse(arguments)
    print(
        f"{describe_machine(torch.device('cpu'))['device']}, one worker, one thread, torch "
        f"{torch.__version__}"
    )
    with tempfile.TemporaryDirectory(prefix="start-") as scratch:
        folder = Path(scratch)
        _prepare(folder)
        rounds = [_round(folder, number) for number in range(options.rounds)]
    print(_verdict(rounds))
    if options.json is not None:
        write_atomically(options.json, (_document(rounds) + "\n").encode())
    return int(any(one.ours.scores != one.rival.scores for one in rounds))


def _prepare(folder: Path) -> None:
    """Train the classifier for an epoch, evaluate it once, and write the rival's settings."""
    write_sample(folder / "digits", Size(train_scenes=1, val_scenes=1))
    worker = {"workers": 1, "cpus_per_worker": 1}
    pretrain = {
        "kind": "pretrain",
        "data": str(folder / "digits" / "imagenet"),
        "model": MODEL,
        "epochs": 1,
        "warmup_epochs": 0,
        "batch_size": 32,
        "loader_workers": 0,
        "resources": worker,
    }
    stages = {
        "pretrain": pretrain,
        "evaluation": {"kind": "evaluate", "of": "pretrain", "resources": worker},
    }
    # JSON is YAML.
    job = json.dumps({"name": "start", "store": str(folder / "store"), "stages": stages})
    (folder / "job.yaml").write_text(job)
    run_module("orchestrator", "run", str(folder / "job.yaml"))
    store = open_store(str(folder / "store"))
    trained, evaluated = _manifest(store, "pretrain"), _manifest(store, "evaluation")
    checkpoint = fetch_artifact(store, trained.artifacts[CHECKPOINT], folder / CHECKPOINT)
    settings = {"params": evaluated.params, "checkpoint": str(checkpoint)}
    (folder / "settings.json").write_text(json.dumps(settings))


def _manifest(store: Store, stage: str) -> Manifest:
    """The stage's newest manifest; each forced rerun writes one."""
    keys = [Path(name).stem for name in store.names("manifests")]
    manifests = [
        manifest
        for key in keys
        if (manifest := load_manifest(store, key)) and manifest.stage == stage
    ]
    return max(manifests, key=lambda manifest: float(str(manifest.provenance["finished_at_s"])))


def _round(folder: Path, number: int) -> Round:
    """Run both sides, ours first in every second round, and print their costs."""
    sides: dict[str, Callable[[Path], Cost]] = {"ours": _evaluate_ours, "rival": _evaluate_rival}
    order = ("ours", "rival") if number % 2 == 0 else ("rival", "ours")
    costs = {name: sides[name](folder) for name in order}
    one = Round(costs["ours"], costs["rival"])
    print(
        f"round {number + 1}: ours {one.ours.wall_s:.1f} s and {one.ours.cpu_s:.1f} CPU-s, "
        f"plain process {one.rival.wall_s:.1f} s and {one.rival.cpu_s:.1f} CPU-s",
        flush=True,
    )
    return one


def _evaluate_ours(folder: Path) -> Cost:
    done, cpu_s = _metered("orchestrator", "run", str(folder / "job.yaml"), "--force", "evaluation")
    manifest = _manifest(open_store(str(folder / "store")), "evaluation")
    return Cost(
        done.wall_s,
        cpu_s,
        {metric.name: metric.value for metric in manifest.metrics if metric.name in SCORES},
    )


def _evaluate_rival(folder: Path) -> Cost:
    done, cpu_s = _metered("benchmarks.start_rival", str(folder / "settings.json"))
    values: dict[str, float] = json.loads(done.stdout)
    return Cost(done.wall_s, cpu_s, {name: values[name] for name in SCORES})


def _metered(module: str, *arguments: str) -> tuple[Done, float]:
    """Run a command; return its outcome and the CPU-seconds of all its processes."""
    with _cpu_meter() as spent_s:
        done = run_module(module, *arguments)
        return done, spent_s()


@contextmanager
def _cpu_meter() -> Iterator[Callable[[], float]]:
    """Yield a function that returns the CPU-seconds of all processes started since.

    Processes count however they ended.
    """
    adopt_orphans()
    meter, lock, is_over = Meter(os.getpid()), threading.Lock(), threading.Event()

    def total_s() -> float:
        with lock:
            return meter.look() - sum(os.times()[:2])

    def watch() -> None:
        while not is_over.wait(LOOK_EVERY_S):
            total_s()

    before_s = total_s()
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield lambda: total_s() - before_s
    finally:
        is_over.set()
        thread.join()


def _verdict(rounds: Sequence[Round]) -> str:
    wall_s, cpu_s = _medians([one.ours for one in rounds])
    rival_wall_s, rival_cpu_s = _medians([one.rival for one in rounds])
    return (
        f"medians of {len(rounds)} rounds: ours {wall_s:.1f} s and {cpu_s:.1f} CPU-s, "
        f"plain process {rival_wall_s:.1f} s and {rival_cpu_s:.1f} CPU-s\n"
        f"added: {wall_s - rival_wall_s:.1f} s and {cpu_s - rival_cpu_s:.1f} CPU-s; "
        f"bars <= {WALL_BAR_S} s: {_met(wall_s, WALL_BAR_S)}, <= {CPU_BAR_S} CPU-s: "
        f"{_met(cpu_s, CPU_BAR_S)}"
    )


def _medians(costs: Sequence[Cost]) -> tuple[float, float]:
    return median(cost.wall_s for cost in costs), median(cost.cpu_s for cost in costs)


def _met(value: float, bar: float) -> str:
    return "met" if value <= bar else "MISSED"


def _document(rounds: Sequence[Round]) -> str:
    content: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(torch.device("cpu")),
        "rounds": [asdict(one) for one in rounds],
    }
    return json.dumps(content, indent=2)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.start",
        description="Compare an evaluation as a job with a plain process.",
    )
    parser.add_argument(
        "--rounds", type=at_least(1), default=5, metavar="N", help="runs of both sides; default: 5"
    )
    parser.add_argument(
        "--json", type=Path, metavar="PATH", help="write all measurements as one JSON document"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
