"""Live progress: a row per stage on a terminal, otherwise a line per event."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from orchestrator.plan import Plan
from orchestrator.progress import Update, Watcher
from orchestrator.schedule import State

STYLES = {
    State.WAITING: "dim",
    State.RUNNING: "cyan",
    State.DONE: "green",
    State.REUSED: "green",
    State.FAILED: "bold red",
    State.BLOCKED: "red",
    State.CANCELLED: "yellow",
}


@contextmanager
def watching(plan: Plan, console: Console) -> Iterator[Watcher]:
    """Yield a watcher that shows updates on `console`."""
    if not console.is_terminal:
        yield lambda update: console.print(line_of(update), soft_wrap=True, markup=False)
        return
    with _Rows(plan, console) as rows:
        yield rows.show


def line_of(update: Update) -> str:
    """Return the line for an update where there is no terminal, and in the driver's log."""
    state = "" if update.state is State.RUNNING else f"{update.state}: "
    return f"{time.strftime('%H:%M:%S')} {update.stage}: {state}{update.event.text}"


class _Rows:
    """One row per stage: name, state, bar, time, last event."""

    def __init__(self, plan: Plan, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            TextColumn("{task.fields[state]}"),
            BarColumn(bar_width=20),
            TimeElapsedColumn(),
            TextColumn("{task.fields[text]}"),
            console=console,
        )
        self._rows: dict[str, TaskID] = {
            planned.name: self._progress.add_task(
                escape(planned.name), total=1, start=False, state=_styled(State.WAITING), text=""
            )
            for planned in plan.stages
        }

    def __enter__(self) -> _Rows:
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def show(self, update: Update) -> None:
        row = self._rows[update.stage]
        self._progress.update(row, state=_styled(update.state), text=escape(update.event.text))
        if update.state is State.RUNNING:
            self._progress.start_task(row)
        if update.event.total:
            self._progress.update(row, completed=update.event.done, total=update.event.total)
        if update.state in (State.DONE, State.REUSED):
            self._progress.update(row, completed=1, total=1)
        if update.state.is_final:
            self._progress.stop_task(row)


def _styled(state: State) -> str:
    return f"[{STYLES[state]}]{state:<7}[/]"
