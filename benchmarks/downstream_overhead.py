"""`python -m benchmarks.downstream_overhead`: what detection and segmentation cost here beside mmengine's own Runner.

The same config trains on the same data by `python -m orchestrator run`, which starts Ray, and by
`benchmarks.downstream_rival`, which is mmdet's tools/train.py, in alternating order, with one worker and one thread.
Compared is the steady state: the median rate of ten iterations, by the times at which both sides say that they are
over. Start-up, validation and checkpoints are left out; the time to the first iteration stands beside it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch

from benchmarks.command import at_least, run_module
from benchmarks.speed.machine import describe_machine
from benchmarks.speed.rounds import Spread
from cat_model.files import write_atomically
from orchestrator.artifact import Manifest
from orchestrator.store import open_store
from orchestrator.store.publish import fetch_artifact
from pipelines.sample.folder import Size, write_sample

BAR = 0.98
BATCH_SIZE = 4
ONE_WORKER = {"workers": 1, "cpus_per_worker": 1}
PRETRAIN = {
    "kind": "pretrain",
    "model": {"embed_dim": 32, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8], "img_size": 56},
    "epochs": 1,
    "batch_size": 32,
    "warmup_epochs": 0,
    "loader_workers": 0,
    "resources": ONE_WORKER,
}
"""The quickstart's network; small networks show overhead, large ones hide it. What it has learnt does not matter."""
_COMMON = {
    "batch_size": BATCH_SIZE,
    "warmup_iters": 2,
    "clip_grad": 5.0,
    "img_scale": [128, 128],
    "flip_prob": 0.0,
    "channels": 32,
    "loader_workers": 0,
}
_EXIT_BELOW_BAR = 1


class Told(NamedTuple):
    """An iteration, counted from 1, that was over at `time_s`, in seconds since 1970."""

    time_s: float
    iteration: int
    loss: float


@dataclass(frozen=True)
class Side:
    """One training."""

    startup_s: float
    """From the command to the first iteration."""
    iterations_per_s: float
    """The median over every ten iterations after the first ten: other work on the machine comes in bursts."""
    loss: float
    """Of the last iteration."""


@dataclass(frozen=True)
class Round:
    method: str
    ours: Side
    rival: Side

    @property
    def ratio(self) -> float:
        return self.ours.iterations_per_s / self.rival.iterations_per_s


@dataclass(frozen=True)
class Ground:
    """What all rounds stand on: data, and a store with a pretrained network."""

    data: Path
    store: Path
    checkpoint: Path
    iterations: int


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 from the bar on, 1 below it; a quick run is below no bar."""
    options = _parse(arguments)
    print(f"{describe_machine(torch.device('cpu'))['device']}, one worker, one thread, torch {torch.__version__}")
    with tempfile.TemporaryDirectory(prefix="downstream-") as scratch:
        ground = prepare(Path(scratch), options.iterations)
        rounds = [
            run_round(Path(scratch), ground, method, number)
            for number in range(options.rounds)
            for method in options.methods
        ]
    spreads = {method: _spread(rounds, method) for method in options.methods}
    for method, spread in spreads.items():
        print(_verdict([one for one in rounds if one.method == method], spread))
    if options.json is not None:
        write_atomically(options.json, (_document(options, rounds, spreads) + "\n").encode())
    is_below = min(spread.median for spread in spreads.values()) < BAR
    return _EXIT_BELOW_BAR if is_below and not options.quick else 0


def prepare(scratch: Path, iterations: int) -> Ground:
    """Write the data, an epoch of which has the iterations asked for, and pretrain; the work of all rounds."""
    data, store = scratch / "data", scratch / "store"
    write_sample(data, Size(train_scenes=iterations * BATCH_SIZE, val_scenes=2, scans_per_class=20))
    _run_job(scratch / "pretrain.yaml", store, {"pretrain": _pretrain(data)})
    (path,) = store.glob("manifests/*.json")
    manifest = Manifest.from_json(path.read_bytes(), where=str(path))
    checkpoint = fetch_artifact(open_store(str(store)), manifest.artifacts["checkpoint"], scratch / "checkpoint")
    return Ground(data, store, checkpoint, iterations)


def params_of(method: str, ground: Ground) -> dict[str, Any]:
    """The stage's kind and params; validation and checkpoints come at the end."""
    common = {**_COMMON, "method": method, "backbone": "pretrain.checkpoint"}
    if method == "semantic_fpn":
        ends = dict.fromkeys(("max_iters", "val_every", "checkpoint_every"), ground.iterations)
        own = {"crop_size": 128, "head_channels": 32, "ratio_range": [1.0, 1.0], "data": str(ground.data / "ade20k")}
        return {"kind": "segmentation", **common, **own, **ends}
    return {"kind": "detection", **common, "epochs": 1, "data": str(ground.data / "coco")}


def run_round(scratch: Path, ground: Ground, method: str, number: int) -> Round:
    """Both sides, ours first in every other round. Prints what came out."""
    folder = scratch / f"{method}{number}"
    folder.mkdir()
    sides: dict[str, Callable[[Path, Ground, str], Side]] = {"ours": train_ours, "rival": train_rival}
    order = ("ours", "rival") if number % 2 == 0 else ("rival", "ours")
    done = {name: sides[name](folder, ground, method) for name in order}
    one = Round(method, done["ours"], done["rival"])
    print(
        f"{method} round {number + 1}: ours {one.ours.iterations_per_s:.2f} iterations/s, rival "
        f"{one.rival.iterations_per_s:.2f}, ratio {one.ratio:.3f}; first iteration after {one.ours.startup_s:.1f} and "
        f"{one.rival.startup_s:.1f} s; last loss {one.ours.loss:.3f} and {one.rival.loss:.3f}",
        flush=True,
    )
    return one


def train_ours(folder: Path, ground: Ground, method: str) -> Side:
    """As a job whose pretraining is in the store already."""
    store = folder / "store"
    shutil.copytree(ground.store, store)
    seen = set(store.glob("runs/*/events/*.jsonl"))
    stage = {**params_of(method, ground), "resources": ONE_WORKER}
    began_s = _run_job(folder / "job.yaml", store, {"pretrain": _pretrain(ground.data), "downstream": stage})
    paths = sorted(set(store.glob("runs/*/events/*.jsonl")) - seen)
    lines = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
    return side_of(began_s, [_told(line, ground) for line in lines if _is_iteration(line)], ground.iterations)


def train_rival(folder: Path, ground: Ground, method: str) -> Side:
    path, work_dir = folder / "settings.json", folder / "rival"
    work_dir.mkdir()
    params = params_of(method, ground)
    kind = params.pop("kind")
    settings = {"kind": kind, "params": params, "checkpoint": str(ground.checkpoint), "work_dir": str(work_dir)}
    path.write_text(json.dumps(settings))
    done = run_module("benchmarks.downstream_rival", str(path))
    told = [Told(**json.loads(line)) for line in done.stdout.splitlines()]
    return side_of(done.began_s, told, ground.iterations)


def side_of(began_s: float, told: Sequence[Told], iterations: int) -> Side:
    """The first iterations, before the first that was told, are taken to be as fast as the median of the others."""
    assert told[-1].iteration == iterations, f"iteration {told[-1].iteration} was told last instead of {iterations}"
    rates = [(b.iteration - a.iteration) / (b.time_s - a.time_s) for a, b in pairwise(told)]
    rate = median(rates)
    return Side(told[0].time_s - told[0].iteration / rate - began_s, rate, told[-1].loss)


def _run_job(path: Path, store: Path, stages: Mapping[str, Any]) -> float:
    """When it began. JSON is YAML: the job file is written as JSON."""
    path.write_text(json.dumps({"name": "overhead", "store": str(store), "stages": stages}))
    return run_module("orchestrator", "run", str(path)).began_s


def _pretrain(data: Path) -> dict[str, Any]:
    return {**PRETRAIN, "data": str(data / "imagenet")}


def _is_iteration(line: Mapping[str, Any]) -> bool:
    """Not a validation, whose event has its metrics."""
    metrics = line["event"]["metrics"]
    return line["stage"] == "downstream" and "loss" in metrics and not {"box_map", "miou"} & metrics.keys()


def _told(line: Mapping[str, Any], ground: Ground) -> Told:
    event = line["event"]
    return Told(line["time_s"], round(event["done"] / event["total"] * ground.iterations), event["metrics"]["loss"])


def _spread(rounds: Sequence[Round], method: str) -> Spread:
    return Spread.of([one.ratio for one in rounds if one.method == method])


def _verdict(rounds: Sequence[Round], ratio: Spread) -> str:
    ours, rival = (median(getattr(one, side).startup_s for one in rounds) for side in ("ours", "rival"))
    spread = f"{ratio.median:.3f} ({ratio.min:.3f}..{ratio.max:.3f} in {len(rounds)} rounds)"
    return (
        f"{rounds[0].method}: steady state, ours / mmengine's Runner: {spread}; bar >= {BAR}: "
        f"{'met' if ratio.median >= BAR else 'MISSED'}; command to first iteration: {ours:.1f} s and {rival:.1f} s"
    )


def _document(options: argparse.Namespace, rounds: Sequence[Round], spreads: Mapping[str, Spread]) -> str:
    content = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(torch.device("cpu")),
        "iterations": options.iterations,
        "batch_size": BATCH_SIZE,
        "ratios": {method: spread._asdict() for method, spread in spreads.items()},
        "rounds": [asdict(one) for one in rounds],
    }
    return json.dumps(content, indent=2)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.downstream_overhead",
        description="Compare detection and segmentation here with mmengine's Runner in a plain process.",
    )
    is_quick = "--quick" in (sys.argv[1:] if arguments is None else arguments)
    rounds, iterations = (1, 20) if is_quick else (5, 150)
    methods = ["retinanet", "semantic_fpn"]
    parser.add_argument("--quick", action="store_true", help="some iterations of each, which show that it works")
    parser.add_argument("--rounds", type=at_least(1), default=rounds, metavar="N", help="default: %(default)s")
    parser.add_argument("--iterations", type=at_least(20), default=iterations, metavar="N", help="default: %(default)s")
    parser.add_argument("--methods", nargs="+", choices=methods, default=methods, help="default: both")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write everything that was measured")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
