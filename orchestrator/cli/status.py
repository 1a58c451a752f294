"""The verb status: a table on a terminal, otherwise a line per stage, or JSON with --json."""

from __future__ import annotations

import json
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import IO

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from orchestrator.cli.console import make_console, print_json
from orchestrator.cli.job import load
from orchestrator.cli.runs import list_runs
from orchestrator.numbers import duration
from orchestrator.runs.status import RESUME, Condition, StageStatus, Status, load_status
from orchestrator.store import open_store
from orchestrator.streams import Output

WATCH_S = 2.0
BAR_WIDTH = 12
WIDE = 100
"""Minimum columns of a terminal for progress bars and the number of workers."""
WIDEST = 140
"""Minimum columns for metrics and the last event in the table. Otherwise they are below it."""

STYLES = {
    Condition.WAITING: "dim",
    Condition.RUNNING: "cyan",
    Condition.DONE: "green",
    Condition.REUSED: "green",
    Condition.FAILED: "bold red",
    Condition.BLOCKED: "red",
    Condition.CANCELLED: "yellow",
    Condition.INTERRUPTED: "yellow",
    Condition.LOST: "bold yellow",
}


def status(arguments: Namespace, stdout: Output) -> int:
    if arguments.job is None:
        return list_runs(arguments, stdout, styles=STYLES)
    job = load(arguments)
    store = open_store(job.store)

    def look() -> Status:
        return load_status(job, store, now_s=time.time())

    statuses = following(look) if arguments.watch else (look(),)
    if arguments.json:
        show_json(_while_read(statuses, stdout), stdout, is_watch=arguments.watch)
    else:
        show_status(_while_read(statuses, stdout), stdout)
    return 0


def _while_read(statuses: Iterable[Status], stdout: Output) -> Iterator[Status]:
    """Yield `statuses` until the reader of stdout has left."""
    for status in statuses:
        yield status
        if not stdout.has_reader:
            return


def following(load: Callable[[], Status], *, every_s: float = WATCH_S) -> Iterator[Status]:
    """Yield the status now, and again every few seconds until its run has begun and ended."""
    while True:
        status = load()
        yield status
        if status.state not in (Condition.WAITING, Condition.RUNNING):
            return
        time.sleep(every_s)


def show_json(statuses: Iterable[Status], stream: IO[str], *, is_watch: bool) -> None:
    """Write the status as a JSON document. With `is_watch`, write one per line whenever there is
    news."""
    before: Mapping[str, object] = {}
    for status in statuses:
        if not is_watch:
            print_json(stream, status.to_json())
        elif before != _news(status):
            stream.write(json.dumps(status.to_json(), ensure_ascii=False) + "\n")
            stream.flush()
        before = _news(status)


def show_status(statuses: Iterable[Status], stream: IO[str]) -> None:
    """On a terminal, draw a table again for each of `statuses`. Otherwise write a line for the run
    and for each stage that changed."""
    console = make_console(stream)
    if not console.is_terminal:
        _show_lines(statuses, stream)
        return
    with Live(console=console, auto_refresh=False) as live:
        for status in statuses:
            live.update(make_view(status, width=console.width), refresh=True)


def make_view(status: Status, *, width: int) -> Group:
    """Return two lines about the run, a table of its stages, and what does not fit into the table,
    for `width` columns."""
    heading = Text(status.job, style="bold")
    if status.run_id is not None:
        heading.append(f"  run {status.run_id}, {_began(status)}", style="not bold dim")
    verdict = Text(_verdict(status), style=STYLES[status.state])
    below = [line for row in status.stages for line in _lines_below(row, width=width)]
    gap = [Text()] if below and width < WIDEST else []
    return Group(heading, verdict, Text(), _table(status, width=width), *gap, *below)


def _lines_below(row: StageStatus, *, width: int) -> list[Text]:
    """Return what the table has no room for, then the lost attempts, remarks and warnings."""
    lost = [f"attempt {lost.attempt} was lost: {lost.why}" for lost in row.lost_attempts]
    warnings = [warning.text for warning in row.warnings if warning.name != "retries"]
    return [
        *([] if width >= WIDEST or not (row.event or row.metrics) else [_news_line(row)]),
        *(Text(f"{row.stage}: {line}", style="dim") for line in lost),
        *(Text(line, style="yellow") for line in _remarks(row)),
        *(Text(f"{row.stage}: {text}", style="yellow") for text in warnings),
    ]


def _news_line(row: StageStatus) -> Text:
    """Return the newest metrics and the last event. The last event of a finished stage has them,
    and nothing hides an error."""
    is_in_event = row.state is Condition.DONE and row.heard_s_ago is not None
    has_error = row.state in (Condition.FAILED, Condition.BLOCKED)
    event = _event(row)
    line = Text(f"{row.stage}: ", overflow=event.overflow, no_wrap=event.no_wrap)
    if row.metrics and not is_in_event and not has_error:
        line.append(f"{_metrics(row)}, ")
    return line.append_text(event)


def _show_lines(statuses: Iterable[Status], stream: IO[str]) -> None:
    before: Mapping[str, object] = {}
    for status in statuses:
        rows = {row.stage: "\n".join(_stage_lines(row)) for row in status.stages}
        lines = {"": _run_line(status), **rows}
        news = _news(status)
        for name, line in lines.items():
            if before.get(name) != news[name]:
                stream.write(f"{line}\n")
        stream.flush()
        before = news


def _news(status: Status) -> dict[str, object]:
    """Return what changes with news but not only with time: by stage, and `""` for the run."""
    rows = {
        row.stage: (
            *(row.state, row.attempt, row.workers, row.done, row.event, row.metrics),
            *(row.remarks, row.waits_for, tuple(warning.name for warning in row.warnings)),
        )
        for row in status.stages
    }
    return {"": (status.run_id, status.state), **rows}


def _run_line(status: Status) -> str:
    if status.run_id is None:
        return f"{status.job}: {_verdict(status)}"
    return f"{status.job}: run {status.run_id}, {_began(status)}, {_verdict(status)}"


def _began(status: Status) -> str:
    assert status.began_at_s is not None, "only a job that never ran has no start time"
    return f"began {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(status.began_at_s))}"


def _verdict(status: Status) -> str:
    """Describe the state of the run, and what to do about it."""
    age = duration(status.heard_s_ago or 0)
    match status.state:
        case Condition.WAITING:
            return "has not run yet"
        case Condition.RUNNING:
            return f"running, last update {age} ago"
        case Condition.LOST:
            return f"lost: no update for {age}; {RESUME}"
        case Condition.INTERRUPTED:
            return f"interrupted {age} ago; {RESUME}"
        case Condition.CANCELLED:
            return f"ended {age} ago with cancelled stages; {RESUME}"
        case state:
            return f"{state} {age} ago" + (f": {status.error}" if status.error else "")


def _stage_lines(row: StageStatus) -> list[str]:
    warnings = [f"{row.stage}: {warning.text}" for warning in row.warnings]
    return [_stage_line(row), *_remarks(row), *warnings]


def _stage_line(row: StageStatus) -> str:
    parts = [
        row.state,
        f"attempt {row.attempt}" if row.attempt else "",
        row.shown_workers,
        _percent(row),
        f"eta {_eta(row)}" if row.eta_s is not None else "",
        _metrics(row),
        f"{_age(row)}: {row.event}" if row.heard_s_ago is not None else row.news,
    ]
    return f"{row.stage}: {', '.join(part for part in parts if part)}"


def _remarks(row: StageStatus) -> list[str]:
    return [f"{row.stage}: attempt {remark.attempt}: {remark.text}" for remark in row.remarks]


def _table(status: Status, *, width: int) -> Table:
    is_wide, is_widest = width >= WIDE, width >= WIDEST
    more = [Column("workers", no_wrap=True, justify="right"), Column("progress")] if is_wide else []
    news = [Column("metrics", no_wrap=True)] if is_widest else []
    table = Table(
        Column("stage", no_wrap=True),
        Column("state", no_wrap=True),
        Column("attempt", no_wrap=True, justify="right"),
        *more,
        Column("" if is_wide else "progress", no_wrap=True, justify="right"),
        Column("eta", no_wrap=True, justify="right"),
        *news,
        Column("updated", no_wrap=True, justify="right"),
        *([Column("last event", ratio=1)] if is_widest else []),
        box=None,
        pad_edge=False,
    )
    for row in status.stages:
        table.add_row(
            row.stage,
            Text(row.state, style=STYLES[row.state]),
            str(row.attempt or ""),
            *([str(row.workers or ""), _bar(row)] if is_wide else []),
            _percent(row),
            _eta(row),
            *([_metrics(row)] if is_widest else []),
            _age(row),
            *([_event(row)] if is_widest else []),
        )
    return table


def _bar(row: StageStatus) -> ProgressBar | str:
    return (
        ProgressBar(total=1, completed=row.share, width=BAR_WIDTH) if row.share is not None else ""
    )


def _event(row: StageStatus) -> Text:
    """Return the last event. It is wrapped if the stage failed, is blocked or waits for room,
    otherwise cut to one line."""
    needs_look = row.state in (Condition.FAILED, Condition.BLOCKED) or row.waits_for is not None
    return Text(row.news, overflow="fold" if needs_look else "ellipsis", no_wrap=not needs_look)


def _percent(row: StageStatus) -> str:
    return "" if row.percent is None else f"{row.percent}%"


def _eta(row: StageStatus) -> str:
    return "" if row.eta_s is None else duration(row.eta_s)


def _age(row: StageStatus) -> str:
    return "" if row.heard_s_ago is None else f"{duration(row.heard_s_ago)} ago"


def _metrics(row: StageStatus) -> str:
    return " ".join(row.shown_metrics)
