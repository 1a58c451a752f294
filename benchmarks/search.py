"""`python -m benchmarks.search`: TPE with early stopping against random search, and Tune's cost.

Both searches are jobs, run by `python -m orchestrator run` on the sample data. They run one trial
at a time on one core, so a search's core-seconds equal its running time. This includes the start of
each trial's process. For several seeds, the benchmark compares the best model that each search had
found when the shorter of the two ended.

Then the trials of one search are trained again, one by one, each in a plain process without Ray
(benchmarks.search_rival). The difference is what Tune adds to a trial.
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
"""The bar limits what Tune adds to trials of a minute or more, as a share of their time."""
MORE_TRIALS = 3
"""The search with early stopping gets this many times the trials of the random search.

The search that ends first sets the budget for both.
"""
_EXIT_ABOVE_BAR = 1


@dataclass(frozen=True)
class Race:
    """Both searches of a seed after `core_s`: the best top-1 in % and the number of ended trials.

    The best is None if no trial had ended.
    """

    seed: int
    core_s: float
    best: Mapping[str, float | None]
    num_trials: Mapping[str, int]
    ended: Mapping[str, tuple[Ended, ...]]
    """All trials, including those that ended after `core_s`."""


@dataclass(frozen=True)
class Overhead:
    """Seconds of a whole search, and of each of its trials as a plain process.

    A search lasts from its beginning to the end of its last trial.
    """

    tune_s: float
    alone_s: tuple[float, ...]

    @property
    def added_s(self) -> float:
        """Seconds that Tune adds to each trial."""
        return (self.tune_s - sum(self.alone_s)) / len(self.alone_s)

    @property
    def ratio(self) -> float:
        return self.tune_s / sum(self.alone_s) - 1


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 1 if Tune adds more than the bar, else 0.

    It is always 0 for a quick run, and for trials that are too short for the bar.
    """
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
    """Run both searches, in the opposite order for every second seed, and print the result."""
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
    """Compare both searches at the core-seconds of the one that spent less."""
    core_s = min(one.core_s for one in done.values())
    within = {name: done[name].within(core_s) for name in SEARCHES}
    best = {name: _best(trials) for name, trials in within.items()}
    num_trials = {name: len(trials.trials) for name, trials in within.items()}
    return Race(seed, core_s, best, num_trials, {name: done[name].ended for name in SEARCHES})


def measure_overhead(scratch: Path, options: argparse.Namespace) -> Overhead:
    """Run a search without early stopping, then each of its trials as a plain process.

    Raises AssertionError if a trial's two scores differ.
    """
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
            f"trial {trial.id}: {plain.stdout.strip()} in a plain process, {trial.value} in Tune"
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
        else f"only for trials of {BAR_FROM_S:.0f} s or more"
    )
    return (
        f"asha+tpe compared with random at equal core-seconds: {average}, better with "
        f"{wins} of {len(races)} seeds\n"
        f"Tune adds {overhead.added_s:.1f} s to a trial of {median(overhead.alone_s):.1f} s, "
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
        "--quick", action="store_true", help="a run of a minute, which only shows that it works"
    )
    parser.add_argument(
        "--seeds",
        type=int,
        default=seeds,
        metavar="N",
        help="seeds of the searches; default: %(default)s",
    )
    parser.add_argument(
        "--trials",
        type=int,
        default=trials,
        metavar="N",
        help="trials of the random search; default: %(default)s",
    )
    parser.add_argument(
        "--epochs",
        type=int,
        default=epochs,
        metavar="N",
        help="epochs of a trial; default: %(default)s",
    )
    parser.add_argument(
        "--data-fraction", type=float, default=fraction, metavar="X", help="default: %(default)s"
    )
    parser.add_argument(
        "--long-trials",
        type=int,
        default=1 if is_quick else 3,
        metavar="N",
        help="trials that measure what Tune adds; default: %(default)s",
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
        "--json", type=Path, metavar="PATH", help="write all measurements as one JSON document"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
