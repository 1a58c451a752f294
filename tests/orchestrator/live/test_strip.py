"""The strip at the top of the live page, from a status."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.live.events import SeenEvent
from orchestrator.live.strip import MAX_ROWS, MAX_TEXT, make_strip, make_title
from orchestrator.runs.status import Condition, StageStatus, Status
from orchestrator.runs.warnings import StageWarning

ROW = StageStatus(
    "train", "pretrain", Condition.RUNNING, "epoch 4/10", attempt=2, done=4, total=10, eta_s=125,
    metrics={"top1": 71.234, "loss": 2.31, "lr": 0.1}, heard_s_ago=3.0,
)  # fmt: skip
STATUS = Status("paper", Condition.RUNNING, (ROW,), run_id="r", began_at_s=900.0, heard_s_ago=2.0)


def strip(status: Status) -> str:
    return make_strip(status, (), now_s=1000.0)["now"]


def test_a_running_stage_has_bar_eta_metrics_and_event() -> None:
    html = strip(STATUS)
    assert 'aria-valuenow="40"' in html
    assert "2 min" in html
    assert "top1 71.23 · loss 2.31<" in html
    assert "attempt 2" in html
    assert 'data-age="997.0"' in html


def test_a_stage_has_its_workers_and_warnings() -> None:
    warnings = (StageWarning("data_wait", "waits for data 31 % of the time"),)
    html = strip(replace(STATUS, stages=(replace(ROW, workers=8, warnings=warnings),)))
    assert '<span class="soft">attempt 2, 8 workers</span>' in html
    assert '<span class="warning"><bdi>waits for data 31 % of the time<' in html


def test_only_a_waiting_stage_shows_what_it_waits_for() -> None:
    row = replace(ROW, waits_for="needs 8 GPUs, 4 free")
    assert "needs 8 GPUs" not in strip(replace(STATUS, stages=(row,)))
    html = strip(replace(STATUS, stages=(replace(row, state=Condition.WAITING),)))
    assert "needs 8 GPUs, 4 free" in html


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (Condition.WAITING, "It has not run yet."),
        (Condition.LOST, "Its driver has been silent for 2 s; run the same command again"),
        (Condition.INTERRUPTED, "The run was interrupted; run the same command again"),
        (Condition.CANCELLED, "Stages were cancelled; run the same command again to resume."),
        (Condition.FAILED, "the disk is full"),
    ],
)
def test_a_run_that_is_not_running_says_what_to_do(state: Condition, text: str) -> None:
    assert text in strip(replace(STATUS, state=state, error="the disk is full"))


def test_of_many_stages_only_the_active_ones_are_listed() -> None:
    done = [replace(ROW, stage=f"done{n}", state=Condition.DONE) for n in range(MAX_ROWS)]
    html = strip(replace(STATUS, stages=(*done, ROW)))
    assert "30 done, 1 running" in html
    assert html.count('<td class="name"') == 1
    assert "30 stages wait, are done" in html


def test_a_long_event_is_cut() -> None:
    events = make_strip(STATUS, [SeenEvent("a", None, 1.0, "x" * 5000)], now_s=9.0)["events"]
    assert "x" * (MAX_TEXT - 1) + "…" in events
    assert "x" * MAX_TEXT not in events


def test_the_title_has_state_and_progress() -> None:
    assert make_title(STATUS) == "running 40% · paper"
    assert make_title(Status("paper", Condition.WAITING, ())) == "waiting · paper"
