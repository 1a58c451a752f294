"""The measurements of each contestant, as values and as a table with the bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.loading.contestants import RIVAL
from benchmarks.speed.rounds import Spread
from benchmarks.speed.table import aligned

BARS = {"fast": 1.15, "device": 2.0}
"""The images a core-second that each must reach, as a multiple of the rival's.

For `device` only the loader's share counts.
"""
LEGEND = f"""\
us/image: CPU time of the loader's process plus the training process, per image; the median of
all rounds. x rival: the median of the rounds' ratios to {RIVAL}. The work measured is from encoded
files to normalised batches; for `device`, to batches of uint8, and the rest is printed below.
Mixup and cutmix are left out: all contestants use timm's."""
_HEAD = ("augmentation", "us/image", "images/core-s", "x rival", "min..max", "bar", "")
_TEXT_COLUMNS = 1


@dataclass(frozen=True)
class Result:
    """A contestant's rounds. Ratios are to the rival in the same round."""

    name: str
    image_cpu_s: tuple[float, ...]
    ratio_to_rival: Spread | None
    """None for the rival itself."""

    @property
    def bar(self) -> float | None:
        return BARS.get(self.name)

    @property
    def is_met(self) -> bool | None:
        """Whether the bar is met; None without a bar."""
        if self.bar is None or self.ratio_to_rival is None:
            return None
        return self.ratio_to_rival.median >= self.bar

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "image_cpu_s": self.image_cpu_s,
            "ratio_to_rival": self.ratio_to_rival and self.ratio_to_rival._asdict(),
            "bar": self.bar,
            "is_met": self.is_met,
        }


def results_of(image_cpu_s: Mapping[str, Sequence[float]]) -> list[Result]:
    """One result per contestant, from its CPU seconds an image in each round."""
    rival = image_cpu_s[RIVAL]
    return [
        Result(
            name=name,
            image_cpu_s=tuple(times),
            ratio_to_rival=None
            if name == RIVAL
            else Spread.of([a / b for a, b in zip(rival, times, strict=True)]),
        )
        for name, times in image_cpu_s.items()
    ]


def table(results: Sequence[Result]) -> str:
    return "\n".join(aligned([_HEAD, *map(_row, results)], num_text_columns=_TEXT_COLUMNS))


def _row(result: Result) -> tuple[str, ...]:
    time_s = Spread.of(result.image_cpu_s)
    ratio = result.ratio_to_rival
    verdicts = {None: "", True: "met", False: "MISSED"}
    return (
        result.name,
        f"{1e6 * time_s.median:.0f}",
        f"{1 / time_s.median:.0f}",
        "" if ratio is None else f"{ratio.median:.2f}",
        "" if ratio is None else f"{ratio.min:.2f}..{ratio.max:.2f}",
        "" if result.bar is None else f"{result.bar:.2f}",
        verdicts[result.is_met],
    )
