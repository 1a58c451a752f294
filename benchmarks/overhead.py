"""`python -m benchmarks.overhead`: what training here costs compared with a bare DDP script.

Both sides train the same network with the same data and settings: `python -m orchestrator run`,
which starts Ray, and `benchmarks.overhead_rival`. They run in alternating order, with one worker of
one thread each.

The steady state is compared: images a second over an epoch's updates, from the request for the
first batch to the last update, as each side counts them. The first epoch, evaluation and start-up
are left out. The start-up time is printed separately.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch

from benchmarks.command import at_least, run_module
from benchmarks.speed.machine import describe_machine
from benchmarks.speed.rounds import Spread
from cat_model.weights.files import write_atomically
from pipelines.sample.layouts import imagenet_files
from pipelines.sample.scans import load_scans, split_scans

BAR = 0.98
MODEL = {"embed_dim": 32, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8], "img_size": 56}
"""The quickstart's network: a small network shows overhead that a large one hides."""
_EXIT_BELOW_BAR = 1


class Epoch(NamedTuple):
    """An epoch as a side reported it at its end; `time_s` is in seconds since 1970."""

    time_s: float
    images_per_s: float
    loss: float


@dataclass(frozen=True)
class Side:
    """One training. `images_per_s` has a rate for each epoch after the first."""

    startup_s: float
    """Seconds from the command to its first batch."""
    images_per_s: tuple[float, ...]
    loss: float
    """The mean loss of the last epoch; about the same on both sides if they do equal work."""

    @property
    def median(self) -> float:
        return median(self.images_per_s)


@dataclass(frozen=True)
class Round:
    ours: Side
    rival: Side

    @property
    def ratio(self) -> float:
        return self.ours.median / self.rival.median


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 if the ratio reaches the bar, else 1."""
    options = _parse(arguments)
    print(
        f"{describe_machine(torch.device('cpu'))['device']}, one worker, one thread, torch "
        f"{torch.__version__}"
    )
    with tempfile.TemporaryDirectory(prefix="overhead-") as scratch:
        settings = training_settings(Path(scratch), epochs=options.epochs)
        rounds = [_round(Path(scratch), settings, number) for number in range(options.rounds)]
    ratio = Spread.of([one.ratio for one in rounds])
    print(_verdict(rounds, ratio))
    if options.json is not None:
        write_atomically(options.json, (_document(settings, rounds, ratio) + "\n").encode())
    return 0 if ratio.median >= BAR else _EXIT_BELOW_BAR


def training_settings(scratch: Path, *, epochs: int) -> dict[str, Any]:
    """Write the data, and return the fields of the stage that both sides read.

    Evaluation has one image a class.
    """
    scans_of = split_scans(load_scans(), scans_per_class=None)
    val = {scan.digit: scan for scan in scans_of["val"]}
    for path, content in [
        *imagenet_files("train", scans_of["train"]),
        *imagenet_files("val", tuple(val.values())),
    ]:
        (scratch / path).parent.mkdir(parents=True, exist_ok=True)
        (scratch / path).write_bytes(content)
    return {
        "data": str(scratch / "imagenet"),
        "model": MODEL,
        "epochs": epochs,
        "batch_size": 32,
        "lr": 1e-3,
        "warmup_epochs": 1,
        "loader_workers": 0,
    }


def _round(scratch: Path, settings: Mapping[str, Any], number: int) -> Round:
    """Run both sides, ours first in every second round, and print the result."""
    folder = scratch / f"round{number}"
    folder.mkdir()
    sides: dict[str, Callable[[Path, Mapping[str, Any]], Side]] = {
        "ours": train_ours,
        "rival": _train_rival,
    }
    order = ("ours", "rival") if number % 2 == 0 else ("rival", "ours")
    done = {name: sides[name](folder, settings) for name in order}
    one = Round(done["ours"], done["rival"])
    print(
        f"round {number + 1}: ours {one.ours.median:.1f} images/s, rival {one.rival.median:.1f}, "
        f"ratio {one.ratio:.3f}; start-up {one.ours.startup_s:.1f} and {one.rival.startup_s:.1f} "
        f"s; last loss {one.ours.loss:.3f} and {one.rival.loss:.3f}",
        flush=True,
    )
    return one


def train_ours(
    folder: Path,
    settings: Mapping[str, Any],
    *options: str,
    environment: Mapping[str, str] = {},
) -> Side:
    """Train by a job, with `options` of `run`."""
    job = write_job(folder, settings)
    run = run_module("orchestrator", "run", str(job), *options, environment=environment)
    began_s = run.began_s
    store = folder / "store"
    lines = [
        line
        for path in sorted(store.glob("runs/*/events/*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    events = [(line["time_s"], line["event"]["metrics"]) for line in map(json.loads, lines)]
    # The stage's last event has the metrics of its manifest, and no epoch.
    epochs = [Epoch(time_s, m["images_per_s"], m["loss"]) for time_s, m in events if "epoch" in m]
    return _side(began_s, epochs, settings)


def write_job(folder: Path, settings: Mapping[str, Any]) -> Path:
    """Write the job file, as JSON (which is YAML). Returns its path.

    The training writes its only checkpoint at the end, since the rival writes none.
    """
    stage = {
        "kind": "pretrain",
        **settings,
        "checkpoint_every": settings["epochs"],
        "resources": {"workers": 1, "cpus_per_worker": 1},
    }
    job, store = folder / "job.yaml", str(folder / "store")
    job.write_text(json.dumps({"name": "overhead", "store": store, "stages": {"train": stage}}))
    return job


def _train_rival(folder: Path, settings: Mapping[str, Any]) -> Side:
    path = folder / "settings.json"
    path.write_text(json.dumps(settings))
    done = run_module("benchmarks.overhead_rival", str(path))
    return _side(
        done.began_s, [Epoch(**json.loads(line)) for line in done.stdout.splitlines()], settings
    )


def _side(began_s: float, epochs: Sequence[Epoch], settings: Mapping[str, Any]) -> Side:
    assert len(epochs) == settings["epochs"], (
        f"{len(epochs)} epochs were reported instead of {settings['epochs']}"
    )
    num_images = (
        len(list(Path(settings["data"]).glob("train/*/*")))
        // settings["batch_size"]
        * settings["batch_size"]
    )
    first, *steady = epochs
    startup_s = first.time_s - num_images / first.images_per_s - began_s
    return Side(startup_s, tuple(epoch.images_per_s for epoch in steady), epochs[-1].loss)


def _verdict(rounds: Sequence[Round], ratio: Spread) -> str:
    ours = median(one.ours.startup_s for one in rounds)
    rival = median(one.rival.startup_s for one in rounds)
    spread = f"{ratio.median:.3f} ({ratio.min:.3f}..{ratio.max:.3f} in {len(rounds)} rounds)"
    return (
        f"steady state, ours / bare DDP: {spread}; bar >= {BAR}: "
        f"{'met' if ratio.median >= BAR else 'MISSED'}\n"
        f"start-up to the first batch: {ours:.1f} s and {rival:.1f} s"
    )


def _document(settings: Mapping[str, Any], rounds: Sequence[Round], ratio: Spread) -> str:
    content = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(torch.device("cpu")),
        "settings": {name: value for name, value in settings.items() if name != "data"},
        "ratio": ratio._asdict(),
        "rounds": [asdict(one) for one in rounds],
    }
    return json.dumps(content, indent=2)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overhead",
        description="Compare this pipeline's training with a bare DDP script.",
    )
    parser.add_argument(
        "--rounds", type=at_least(1), default=5, metavar="N", help="runs of both sides; default: 5"
    )
    parser.add_argument(
        "--epochs",
        type=at_least(2),
        default=6,
        metavar="N",
        help="epochs, of which the first is not compared; default: 6",
    )
    parser.add_argument(
        "--json", type=Path, metavar="PATH", help="write all measurements as one JSON document"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
