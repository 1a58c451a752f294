"""How `status` shows a Status: a table on a terminal, otherwise lines, or JSON."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from orchestrator.cli.status import following, make_view, show_json, show_status
from orchestrator.numbers import duration
from orchestrator.runs.record import LostAttemptRecord, Remark
from orchestrator.runs.status import Condition, StageStatus, Status
from orchestrator.runs.warnings import StageWarning

ROW = StageStatus(
    stage="pretrain",
    kind="pretrain",
    state=Condition.RUNNING,
    event="epoch 112/300 loss 2.31",
    attempt=2,
    done=112,
    total=300,
    eta_s=7500,
    metrics={"top1": 71.234, "top5": 90.0, "loss": 2.31},
    heard_s_ago=4,
    key="a" * 64,
    lost_attempts=(LostAttemptRecord(attempt=1, why="lost worker 1: killed"),),
)
NEXT = StageStatus("coco", "detection", Condition.WAITING, "it has not started yet", key="b" * 64)
STATUS = Status(
    "paper",
    Condition.RUNNING,
    (ROW, NEXT),
    run_id="20260301T101010-abc123",
    began_at_s=0.0,
    heard_s_ago=3,
)


def _ended(state: Condition, **fields: object) -> Status:
    return replace(STATUS, state=state, heard_s_ago=720.0, **fields)  # type: ignore[arg-type]


def _lines(*statuses: Status) -> list[str]:
    stream = io.StringIO()
    show_status(statuses, stream)
    return stream.getvalue().splitlines()


def _drawn(status: Status, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    console.print(make_view(status, width=width))
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_status_has_a_line_per_stage_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    run, pretrain, coco = _lines(STATUS)
    assert run.startswith("paper: run 20260301T101010-abc123, began ")
    assert run.endswith(", running, last update 3 s ago")
    assert pretrain == (
        "pretrain: running, attempt 2, 37%, eta 2 h 5 min, top1 71.23 top5 90, 4 s ago: epoch "
        "112/300 loss 2.31"
    )
    assert coco == "coco: waiting, it has not started yet"


def test_watch_without_a_terminal_prints_each_change_once() -> None:
    older = replace(STATUS, heard_s_ago=9, stages=(replace(ROW, heard_s_ago=10, eta_s=7494), NEXT))
    newer = replace(STATUS, stages=(replace(ROW, done=113, event="epoch 113/300"), NEXT))
    lines = _lines(STATUS, older, newer, _ended(Condition.DONE, stages=newer.stages))
    assert [line.split(":")[0] for line in lines] == [
        "paper",
        "pretrain",
        "coco",
        "pretrain",
        "paper",
    ]
    assert "epoch 113/300" in lines[3]


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (
            _ended(Condition.LOST),
            "lost: no update for 12 min; run the same command again to resume",
        ),
        (
            _ended(Condition.INTERRUPTED),
            "interrupted 12 min ago; run the same command again to resume",
        ),
        (_ended(Condition.DONE), "done 12 min ago"),
        (_ended(Condition.FAILED, error="no cluster"), "failed 12 min ago: no cluster"),
        (Status("paper", Condition.WAITING, (NEXT,)), "has not run yet"),
    ],
)
def test_status_of_a_run_says_what_to_do(status: Status, verdict: str) -> None:
    assert _lines(status)[0].endswith(f" {verdict}")
    assert verdict in _drawn(status, 120)


def test_status_has_a_row_per_stage_and_remarks_on_losses() -> None:
    lines = _drawn(STATUS, 140)
    assert lines[3].split() == [
        "stage",
        "state",
        "attempt",
        "workers",
        "progress",
        "eta",
        "metrics",
        "updated",
        "last",
        "event",
    ]
    assert "37%" in lines[4]
    assert lines[4].endswith("epoch 112/300 loss 2.31")
    assert lines[5].split()[:2] == ["coco", "waiting"]
    assert lines[6] == "pretrain: attempt 1 was lost: lost worker 1: killed"


def test_status_shows_a_damaged_checkpoint() -> None:
    remark = Remark(attempt=2, text="checkpoint 7 is damaged")
    status = replace(STATUS, stages=(replace(ROW, remarks=(remark,)), NEXT))
    assert _drawn(status, 140)[-1] == "pretrain: attempt 2: checkpoint 7 is damaged"
    assert _lines(status)[2] == "pretrain: attempt 2: checkpoint 7 is damaged"
    assert len(_lines(STATUS, status)) == 5


def test_narrow_terminal_cuts_events_but_not_errors() -> None:
    long = "no such file: " + "x" * 100
    failed = replace(ROW, state=Condition.FAILED, event=long, eta_s=None, lost_attempts=())
    lines = _drawn(replace(STATUS, stages=(failed, replace(ROW, event=long, lost_attempts=()))), 80)
    assert all(len(line) <= 80 for line in lines)
    assert sum(line.count("x") for line in lines[4:-1]) >= 100
    assert lines[-1].endswith("…")


WARNED = replace(
    ROW,
    workers=8,
    warnings=(
        StageWarning("stalled", "stalled: no progress for 12 min, usually every 20 s"),
        StageWarning("data_wait", "waits for data 31 % of the time"),
        StageWarning("retries", "1 attempt was lost"),
    ),
)


@pytest.mark.parametrize("width", [80, 100, 140])
def test_every_width_shows_event_metrics_and_warnings(width: int) -> None:
    lines = _drawn(
        replace(STATUS, stages=(WARNED, replace(NEXT, waits_for="needs pretrain"))), width
    )
    text = "\n".join(lines)
    assert all(len(line) <= width for line in lines)
    for part in ("epoch 112/300 loss 2.31", "top1 71.23 top5 90", "37%", "needs pretrain"):
        assert part in text
    start = lines.index("pretrain: attempt 1 was lost: lost worker 1: killed")
    assert lines[start + 1 : start + 3] == [
        "pretrain: stalled: no progress for 12 min, usually every 20 s",
        "pretrain: waits for data 31 % of the time",
    ]


def test_narrow_terminal_shows_metrics_of_finished_stages_once() -> None:
    earlier = replace(NEXT, state=Condition.DONE, event="in an earlier run", metrics={"map": 40.0})
    now = replace(earlier, event="map 40.00", heard_s_ago=3.0)
    assert _drawn(replace(STATUS, stages=(earlier, now)), 80)[-2:] == [
        "coco: map 40, in an earlier run",
        "coco: map 40.00",
    ]


@pytest.mark.parametrize(("width", "is_shown"), [(80, False), (100, True), (140, True)])
def test_workers_are_a_column_if_there_is_room(width: int, is_shown: bool) -> None:
    header, row = _drawn(replace(STATUS, stages=(WARNED,)), width)[3:5]
    assert ("workers" in header.split()) is is_shown
    assert (row.split()[3] == "8") is is_shown


def test_lines_have_workers_waits_and_warnings() -> None:
    waiting = replace(NEXT, waits_for="needs 8 GPUs, 4 free")
    _, pretrain, *warnings, coco = _lines(replace(STATUS, stages=(WARNED, waiting)))
    assert pretrain.startswith("pretrain: running, attempt 2, 8 workers, 37%, ")
    assert warnings == [f"pretrain: {warning.text}" for warning in WARNED.warnings]
    assert coco == "coco: waiting, needs 8 GPUs, 4 free"


def test_watch_prints_a_warning_once_while_its_text_changes() -> None:
    older = replace(WARNED, warnings=(StageWarning("stalled", "stalled: no progress for 9 min"),))
    newer = replace(older, warnings=(StageWarning("stalled", "stalled: no progress for 10 min"),))
    lines = _lines(*(replace(STATUS, stages=(row,)) for row in (ROW, older, newer)))
    assert [line.split(":")[1] for line in lines if "stalled" in line] == [" stalled"]
    assert len(lines) == 4


def test_markup_in_an_event_is_shown_literally() -> None:
    odd = replace(STATUS, stages=(replace(ROW, event="[bold]a[/x]", lost_attempts=()),))
    assert _drawn(odd, 140)[4].endswith("[bold]a[/x]")
    assert _lines(odd)[1].endswith("[bold]a[/x]")


def test_json_status_is_one_document_or_a_line_per_change() -> None:
    stream = io.StringIO()
    show_json((STATUS,), stream, is_watch=False)
    assert json.loads(stream.getvalue()) == STATUS.to_json()
    stream = io.StringIO()
    older = replace(STATUS, heard_s_ago=9)
    show_json((STATUS, older, _ended(Condition.DONE)), stream, is_watch=True)
    assert [json.loads(line)["state"] for line in stream.getvalue().splitlines()] == [
        "running",
        "done",
    ]


def test_watch_waits_for_a_run_and_ends_with_it() -> None:
    waiting = replace(STATUS, state=Condition.WAITING, run_id=None)
    statuses = iter([waiting, STATUS, STATUS, _ended(Condition.LOST), STATUS])
    states = [status.state for status in following(lambda: next(statuses), every_s=0)]
    assert states == ["waiting", "running", "running", "lost"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3599, "59 min"),
        (7500, "2 h 5 min"),
        (276_000, "3 d 4 h"),
    ],
)
def test_duration_has_at_most_two_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text
