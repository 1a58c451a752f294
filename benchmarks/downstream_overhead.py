"""`python -m benchmarks.downstream_overhead`: detection and segmentation here and in mmengine.

Both sides train the same config on the same data, with one worker and one thread. One side is
`python -m orchestrator run`, which starts Ray. The other is `benchmarks.downstream_rival`, which
does what mmdet's tools/train.py does with mmengine's Runner.

They train in turns of 1.5 s. During a turn the other side's training process is stopped; the other
processes of Ray run all the time. The benchmark compares the rates of consecutive turns. Start-up,
validation and checkpoints are left out. The time to the first iteration is printed separately.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import NormalDist, median
from typing import NamedTuple

import torch

from benchmarks.command import at_least
from benchmarks.downstream_sides import BATCH_SIZE, SIDES, Ground, prepare
from benchmarks.speed.machine import describe_machine
from benchmarks.stamps import read_stamps
from benchmarks.turns import Player, play, rates
from cat_model.weights.files import write_atomically

BAR = 0.98
_EXIT_BELOW_BAR = 1


@dataclass(frozen=True)
class Side:
    """One training."""

    startup_s: float
    """Seconds from the command to the end of the first iteration."""
    iterations_per_s: tuple[float | None, ...]
    """The rate in each of its turns; None for a turn in which too few iterations ended."""
    loss: float
    """The loss of the last iteration."""

    @property
    def median(self) -> float:
        known = [rate for rate in self.iterations_per_s if rate is not None]
        return median(known) if known else math.nan


@dataclass(frozen=True)
class Round:
    method: str
    ours: Side
    rival: Side

    @property
    def ratios(self) -> list[float]:
        """Ratios of the rates of consecutive turns, one for each pair of turns."""
        turns = zip(self.ours.iterations_per_s, self.rival.iterations_per_s, strict=False)
        return [ours / rival for ours, rival in turns if ours is not None and rival is not None]


class Ratio(NamedTuple):
    """The median ratio of all pairs of turns, and its 95 % confidence interval.

    The interval follows from the ranks of the sorted ratios, so it holds for any distribution.
    """

    median: float
    low: float
    high: float
    num_pairs: int

    @classmethod
    def of(cls, ratios: Sequence[float]) -> Ratio:
        ordered, num_pairs = sorted(ratios), len(ratios)
        # The number of ratios below the median is binomial, with variance num_pairs / 4.
        rank = round((num_pairs - NormalDist().inv_cdf(0.975) * math.sqrt(num_pairs)) / 2)
        return cls(median(ordered), ordered[max(rank - 1, 0)], ordered[-max(rank, 1)], num_pairs)

    def __str__(self) -> str:
        return (
            f"{self.median:.3f} ({self.low:.3f}..{self.high:.3f} with 95 %, {self.num_pairs} "
            "pairs of turns)"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 if all ratios reach the bar, else 1. A quick run always returns 0."""
    options = _parse(arguments)
    print(
        f"{describe_machine(torch.device('cpu'))['device']}, one worker, one thread, torch "
        f"{torch.__version__}"
    )
    with tempfile.TemporaryDirectory(prefix="downstream-") as scratch:
        ground = prepare(Path(scratch), options.iterations)
        rounds = [
            run_round(Path(scratch), ground, method, number)
            for number in range(options.rounds)
            for method in options.methods
        ]
    by_method = {
        method: [one for one in rounds if one.method == method] for method in options.methods
    }
    for of_method in by_method.values():
        print(_verdict(of_method))
    ratios = {method: _ratio(of_method) for method, of_method in by_method.items()}
    if options.json is not None:
        write_atomically(options.json, (_document(options, rounds, ratios) + "\n").encode())
    is_below = min(ratio.median for ratio in ratios.values()) < BAR
    return _EXIT_BELOW_BAR if is_below and not options.quick else 0


def run_round(scratch: Path, ground: Ground, method: str, number: int) -> Round:
    """Run both sides in turns, ours first in every second round, and print the result."""
    players = {name: make(scratch, ground, method, number) for name, make in SIDES.items()}
    play(*(players.values() if number % 2 == 0 else reversed(players.values())))
    one = Round(method, **{name: side_of(player) for name, player in players.items()})
    if not one.ratios:
        sys.exit(
            f"{method}: no two consecutive turns have enough iterations to compare; "
            "give more --iterations"
        )
    print(
        f"{method} round {number + 1}: {Ratio.of(one.ratios)}; ours {one.ours.median:.2f} "
        f"iterations/s, rival {one.rival.median:.2f}; first iteration after "
        f"{one.ours.startup_s:.1f} and "
        f"{one.rival.startup_s:.1f} s; last loss {one.ours.loss:.3f} and {one.rival.loss:.3f}",
        flush=True,
    )
    return one


def side_of(player: Player) -> Side:
    stamps = read_stamps(player.folder)
    assert len(stamps) == player.iterations, (
        f"{len(stamps)} iterations instead of {player.iterations}"
    )
    return Side(stamps[0].time_s - player.began_s, tuple(rates(player)), stamps[-1].loss)


def _verdict(rounds: Sequence[Round]) -> str:
    ratio = _ratio(rounds)
    ours, rival = (
        median(getattr(one, side).startup_s for one in rounds) for side in ("ours", "rival")
    )
    return (
        f"{rounds[0].method}: steady state, ours / mmengine's Runner: {ratio}; bar >= {BAR}: "
        f"{'met' if ratio.median >= BAR else 'MISSED'}; command to first iteration: {ours:.1f} s "
        f"and {rival:.1f} s"
    )


def _ratio(rounds: Sequence[Round]) -> Ratio:
    return Ratio.of([ratio for one in rounds for ratio in one.ratios])


def _document(
    options: argparse.Namespace, rounds: Sequence[Round], ratios: Mapping[str, Ratio]
) -> str:
    content = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(torch.device("cpu")),
        "iterations": options.iterations,
        "batch_size": BATCH_SIZE,
        "ratios": {method: ratio._asdict() for method, ratio in ratios.items()},
        "rounds": [asdict(one) for one in rounds],
    }
    return json.dumps(content, indent=2)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.downstream_overhead",
        description=(
            "Compare detection and segmentation here with mmengine's Runner in a plain process."
        ),
    )
    is_quick = "--quick" in (sys.argv[1:] if arguments is None else arguments)
    rounds, iterations = (1, 60) if is_quick else (2, 600)
    methods = ["retinanet", "semantic_fpn"]
    parser.add_argument(
        "--quick", action="store_true", help="a few iterations, which only show that it works"
    )
    parser.add_argument(
        "--rounds", type=at_least(1), default=rounds, metavar="N", help="default: %(default)s"
    )
    parser.add_argument(
        "--iterations",
        type=at_least(60),
        default=iterations,
        metavar="N",
        help="default: %(default)s",
    )
    parser.add_argument(
        "--methods", nargs="+", choices=methods, default=methods, help="default: both"
    )
    parser.add_argument(
        "--json", type=Path, metavar="PATH", help="write all measurements as one JSON document"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
