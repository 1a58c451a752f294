"""`python -m benchmarks.search`: what TPE with early stopping wins over random search, and what
Tune adds to a trial.

Both searches are jobs, run by `python -m orchestrator run` on the sample data, one trial at a time
on one core, so that a search has spent as many core-seconds as it has run: the start of each
trial's process is paid for too. Compared is the best model that each had to offer when the shorter
of the two was over, for several seeds. Then trials of one search are trained again, one by one,
each in a plain process without Ray (benchmarks.search_rival).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean, median

import torch

from benchmarks.command import run_module
from benchmarks.searching import SEARCHES, TEMPLATE, Ended, Searched, search
from benchmarks.speed.machine import describe_machine
from cat_model.weights.files import write_atomically
from orchestrator.trials import Trials

BAR = 0.10
BAR_FROM_S = 60.0
"""The bar is on what Tune adds to trials of a minute or more, as part of their time."""
MORE_TRIALS = 3
"""Times as many as at random may be stopped early in the same time; whichever search ends first
sets the budget."""
_EXIT_ABOVE_BAR = 1


@dataclass(frozen=True)
class Race:
    """Both searches of a seed after `core_s`: the best top-1 in % (None: no trial had ended), and
    how many had."""

    seed: int
    core_s: float
    best: Mapping[str, float | None]
    num_trials: Mapping[str, int]
    ended: Mapping[str, tuple[Ended, ...]]
    """All trials, those too that ended later."""


@dataclass(frozen=True)
class Overhead:
    """Seconds from a search's beginning to its last trial's end, and of the same trials as plain
    processes."""

    tune_s: float
    alone_s: tuple[float, ...]

    @property
    def added_s(self) -> float:
        """To each trial."""
        return (self.tune_s - sum(self.alone_s)) / len(self.alone_s)

    @property
    def ratio(self) -> float:
        return self.tune_s / sum(self.alone_s) - 1


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 up to the bar, where the trials are too short for it, and of a quick run; 1
    above it."""
    options = _parse(arguments)
    print(
        f"{describe_machine(torch.device('cpu'))['device']}, one trial at a time, one thread, "
        f"torch {torch.__version__}"
    )
    with tempfile.TemporaryDirectory(prefix="search-") as scratch:
        races = [race(Path(scratch), options, seed) for seed in range(options.seeds)]
        overhead = measure_overhead(Path(scratch), options)
    print(_verdict(races, overhead))
    if options.json is not None:
        write_atomically(options.json, (_document(options, races, overhead) + "\n").encode())
    is_missed = (
        not options.quick and median(overhead.alone_s) >= BAR_FROM_S and overhead.ratio > BAR
    )
    return _EXIT_ABOVE_BAR if is_missed else 0


def race(scratch: Path, options: argparse.Namespace, seed: int) -> Race:
    """Both searches, the other one first with every other seed. Prints what came out."""
    changes = {"epochs": options.epochs, "data_fraction": options.data_fraction}
    num_trials = {"asha+tpe": MORE_TRIALS * options.trials, "random": options.trials}
    order = list(SEARCHES) if seed % 2 == 0 else list(SEARCHES)[::-1]
    done = {
        name: search(
            scratch / f"{name}-{seed}",
            SEARCHES[name],
            changes,
            num_trials=num_trials[name],
            seed=seed,
        )
        for name in order
    }
    one = compare(done, seed)
    texts = [
        f"{name} {_shown(one.best[name])} of {one.num_trials[name]} trials" for name in SEARCHES
    ]
    print(
        f"seed {seed}: best top-1 after {one.core_s:.0f} core-seconds: {', '.join(texts)}",
        flush=True,
    )
    return one


def compare(done: Mapping[str, Searched], seed: int) -> Race:
    """At the core-seconds of the search that spent less."""
    core_s = min(one.core_s for one in done.values())
    within = {name: done[name].within(core_s) for name in SEARCHES}
    best = {name: _best(trials) for name, trials in within.items()}
    num_trials = {name: len(trials.trials) for name, trials in within.items()}
    return Race(seed, core_s, best, num_trials, {name: done[name].ended for name in SEARCHES})


def measure_overhead(scratch: Path, options: argparse.Namespace) -> Overhead:
    """A search without early stopping, then its trials alone. Raises AssertionError where they come
    to other scores."""
    changes = {"epochs": options.long_epochs, "data_fraction": options.long_fraction}
    done = search(
        scratch / "long", SEARCHES["random"], changes, num_trials=options.long_trials, seed=0
    )
    alone_s = []
    for trial in done.trials.trials:
        path = scratch / f"{trial.id}.json"
        path.write_text(
            json.dumps(
                {**TEMPLATE, **changes, **trial.params, "checkpoint_every": options.long_epochs}
            )
        )
        plain = run_module("benchmarks.search_rival", str(path), "0")
        assert float(plain.stdout) == trial.value, (
            f"trial {trial.id}: {plain.stdout.strip()} alone, {trial.value} in Tune"
        )
        alone_s.append(plain.wall_s)
    return Overhead(done.core_s, tuple(alone_s))


def _best(trials: Trials) -> float | None:
    best = trials.best()
    return None if best is None else best.value


def _shown(top1: float | None) -> str:
    return "none" if top1 is None else f"{top1:.2f} %"


def _verdict(races: Sequence[Race], overhead: Overhead) -> str:
    pairs = [(one.best["asha+tpe"], one.best["random"]) for one in races]
    gains = [ours - rival for ours, rival in pairs if ours is not None and rival is not None]
    wins = sum(gain > 0 for gain in gains)
    average = f"{mean(gains):+.2f} points of top-1 on average" if gains else "no trial had ended"
    applies = median(overhead.alone_s) >= BAR_FROM_S
    bar = (
        ("met" if overhead.ratio <= BAR else "MISSED")
        if applies
        else f"for trials from {BAR_FROM_S:.0f} s on"
    )
    return (
        f"asha+tpe beside random at equal core-seconds: {average}, better with "
        f"{wins} of {len(races)} seeds\n"
        f"Tune adds {overhead.added_s:.1f} s to a trial of {median(overhead.alone_s):.1f} s alone, "
        f"{100 * overhead.ratio:.1f} %; bar <= {100 * BAR:.0f} %: {bar}"
    )


def _document(options: argparse.Namespace, races: Sequence[Race], overhead: Overhead) -> str:
    content = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(torch.device("cpu")),
        "options": {name: value for name, value in vars(options).items() if name != "json"},
        "races": [asdict(one) for one in races],
        "overhead": {**asdict(overhead), "added_s": overhead.added_s, "ratio": overhead.ratio},
    }
    return json.dumps(content, indent=2)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.search",
        description="Compare searches at equal cost, and Tune's trials with plain ones.",
    )
    quick, whole = (2, 1, 0.05, 1), (27, 8, 0.3, 3)
    is_quick = "--quick" in (sys.argv[1:] if arguments is None else arguments)
    epochs, trials, fraction, seeds = quick if is_quick else whole
    parser.add_argument(
        "--quick", action="store_true", help="a minute of everything, which shows that it works"
    )
    parser.add_argument(
        "--seeds",
        type=int,
        default=seeds,
        metavar="N",
        help="of the searches; default: %(default)s",
    )
    parser.add_argument(
        "--trials", type=int, default=trials, metavar="N", help="at random; default: %(default)s"
    )
    parser.add_argument(
        "--epochs", type=int, default=epochs, metavar="N", help="of a trial; default: %(default)s"
    )
    parser.add_argument(
        "--data-fraction", type=float, default=fraction, metavar="X", help="default: %(default)s"
    )
    parser.add_argument(
        "--long-trials",
        type=int,
        default=1 if is_quick else 3,
        metavar="N",
        help="for Tune's share; default: %(default)s",
    )
    parser.add_argument(
        "--long-epochs",
        type=int,
        default=1 if is_quick else 20,
        metavar="N",
        help="default: %(default)s",
    )
    parser.add_argument(
        "--long-fraction",
        type=float,
        default=fraction if is_quick else 1.0,
        metavar="X",
        help="default: %(default)s",
    )
    parser.add_argument(
        "--json", type=Path, metavar="PATH", help="write everything that was measured"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
