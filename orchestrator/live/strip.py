"""Status and events -> the strip at the top of the live page, and the report below it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.live.events import SeenEvent
from orchestrator.numbers import duration
from orchestrator.report.content import ReportContent
from orchestrator.report.page import make_environment, make_sections
from orchestrator.runs.status import RESUME, Condition, StageStatus, Status

MAX_ROWS = 30
"""If a job has more stages, the list leaves out stages that wait or are done."""
MAX_TEXT = 300
"""Letters of an event; the report has the whole error of a failed stage."""
QUIET = (Condition.WAITING, Condition.DONE, Condition.REUSED)


@dataclass(frozen=True)
class Row:
    """What the strip shows of a stage."""

    stage: str
    state: str
    attempt: str
    """The attempt after the first one, and its workers."""
    percent: int | None
    eta: str
    metrics: str
    event: str
    """What happened last, or what the stage waits for."""
    warnings: tuple[str, ...]
    heard_at_s: float | None


def make_strip(status: Status, events: Sequence[SeenEvent], *, now_s: float) -> dict[str, str]:
    """The sections `now` and `events`."""
    macros = _macros()
    shown = _shown(status.stages)
    counts = Counter(row.state.value for row in status.stages)
    strip = macros.now_section(
        run_id=status.run_id,
        state=status.state.value,
        remedy=_remedy(status),
        began_at_s=status.began_at_s,
        heard_at_s=None if status.heard_s_ago is None else now_s - status.heard_s_ago,
        counts=", ".join(f"{number} {state}" for state, number in counts.items()),
        rows=[_row(row, now_s) for row in shown],
        num_left_out=len(status.stages) - len(shown),
    )
    return {"now": strip, "events": macros.events_section([_cut_event(event) for event in events])}


def make_report(content: ReportContent, *, now_s: float) -> dict[str, str]:
    """The sections of the report, below a heading with its time."""
    return {"report": _macros().report_heading(now_s), **make_sections(content)}


def _macros() -> Any:
    return make_environment("orchestrator.live").get_template("live.sections.j2").module


def make_title(status: Status) -> str:
    """The title of the browser's tab: how far the first running stage is, and the job."""
    running = next((row for row in status.stages if row.state is Condition.RUNNING), None)
    percent = None if running is None else running.percent
    how_far = "" if percent is None else f" {percent}%"
    return f"{status.state}{how_far} · {status.job}"


def _shown(stages: Sequence[StageStatus]) -> Sequence[StageStatus]:
    if len(stages) <= MAX_ROWS:
        return stages
    return [row for row in stages if row.state not in QUIET][:MAX_ROWS]


def _remedy(status: Status) -> str:
    match status.state:
        case Condition.WAITING:
            return "It has not run yet. This page shows the run when it begins."
        case Condition.LOST:
            age = duration(status.heard_s_ago or 0)
            return f"Its driver has been silent for {age}; {RESUME}."
        case Condition.INTERRUPTED:
            return f"The run was interrupted; {RESUME}."
        case Condition.CANCELLED:
            return f"Stages were cancelled; {RESUME}."
        case _:
            return _cut(status.error or "")


def _row(row: StageStatus, now_s: float) -> Row:
    return Row(
        stage=row.stage,
        state=row.state.value,
        attempt=", ".join(part for part in (_attempt(row), row.shown_workers) if part),
        percent=row.percent,
        eta="" if row.eta_s is None else duration(row.eta_s),
        metrics=" · ".join(row.shown_metrics),
        event=_cut(row.news),
        warnings=tuple(warning.text for warning in row.warnings),
        heard_at_s=None if row.heard_s_ago is None else round(now_s - row.heard_s_ago, 1),
    )


def _attempt(row: StageStatus) -> str:
    return f"attempt {row.attempt}" if row.attempt and row.attempt > 1 else ""


def _cut_event(event: SeenEvent) -> SeenEvent:
    return SeenEvent(event.stage, event.trial, event.time_s, _cut(event.text))


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 1]}…"
