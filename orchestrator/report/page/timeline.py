"""Attempts -> the bars of a Gantt chart. Pure.

The axis has a piece for each run; the time between two runs, which may be weeks, is a gap.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.history import Histories, RunSpan, StageHistory
from orchestrator.numbers import duration

WIDTH = 960
GAP = 16
MAX_RUNS = 12
MIN_BAR = 2.0
"""Pixels: a stage of a second in a run of a week is still seen."""


@dataclass(frozen=True)
class Bar:
    """A piece of a stage's row, in pixels."""

    kind: str
    """`waiting`, `running`, or `lost` for an attempt that was lost or failed."""
    x: float
    width: float
    text: str


@dataclass(frozen=True)
class Row:
    stage: str
    bars: tuple[Bar, ...]
    is_reused: bool
    """Whether the last run found the stage finished."""


@dataclass(frozen=True)
class RunPiece:
    """The part of the axis that belongs to one run."""

    run_id: str
    x: float
    width: float
    text: str


@dataclass(frozen=True)
class Timeline:
    runs: tuple[RunPiece, ...]
    rows: tuple[Row, ...]
    num_left_out: int
    """The number of older runs that are not shown."""


def make_timeline(
    keys: Mapping[str, str], histories: Histories, *, states: Mapping[str, str]
) -> Timeline:
    """The chart of the stages, whose Keys are `keys`, over the runs that trained them."""
    stages = {stage: histories.stages.get(key, StageHistory()) for stage, key in keys.items()}
    used = {attempt.run_id for history in stages.values() for attempt in history.attempts}
    runs = [run for run in histories.runs if run.run_id in used] or list(histories.runs[-1:])
    shown = runs[-MAX_RUNS:]
    pieces = _pieces(shown)
    last = histories.runs[-1].run_id if histories.runs else None
    return Timeline(
        runs=tuple(piece for _, piece in pieces.values()),
        rows=tuple(
            _row(stage, history, pieces, last, states.get(stage))
            for stage, history in stages.items()
        ),
        num_left_out=len(runs) - len(shown),
    )


def _pieces(runs: list[RunSpan]) -> dict[str, tuple[RunSpan, RunPiece]]:
    total_s = sum(run.ended_at_s - run.began_at_s for run in runs) or 1.0
    room = WIDTH - GAP * (len(runs) - 1)
    pieces: dict[str, tuple[RunSpan, RunPiece]] = {}
    x = 0.0
    for run in runs:
        length_s = run.ended_at_s - run.began_at_s
        width = room * length_s / total_s
        pieces[run.run_id] = (run, RunPiece(run.run_id, x, width, duration(length_s)))
        x += width + GAP
    return pieces


def _row(
    stage: str,
    history: StageHistory,
    pieces: Mapping[str, tuple[RunSpan, RunPiece]],
    last: str | None,
    state: str | None,
) -> Row:
    bars: list[Bar] = []
    waiting_since: dict[str, float] = {}
    for attempt in history.attempts:
        if attempt.run_id not in pieces:
            continue
        run, piece = pieces[attempt.run_id]
        since_s = waiting_since.get(run.run_id, run.began_at_s)
        bars.append(_bar("waiting", since_s, attempt.began_at_s, run, piece))
        is_last = attempt is history.attempts[-1]
        kind = "lost" if attempt.lost or (is_last and state in ("failed", "lost")) else "running"
        bars.append(_bar(kind, attempt.began_at_s, attempt.ended_at_s, run, piece, attempt.lost))
        waiting_since[run.run_id] = attempt.ended_at_s
    is_reused = bool(history.attempts) and history.attempts[-1].run_id != last
    return Row(stage, tuple(bars), is_reused)


def _bar(
    kind: str, begin_s: float, end_s: float, run: RunSpan, piece: RunPiece, why: str | None = None
) -> Bar:
    factor = piece.width / ((run.ended_at_s - run.began_at_s) or 1.0)
    x = piece.x + (begin_s - run.began_at_s) * factor
    width = max(0.0, end_s - begin_s) * factor
    text = f"{kind} {duration(max(0.0, end_s - begin_s))}"
    is_thin = width < MIN_BAR and kind != "waiting"
    return Bar(
        kind,
        round(x, 1),
        MIN_BAR if is_thin else round(width, 1),
        f"{text}: {why}" if why else text,
    )
