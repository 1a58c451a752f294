"""The Gantt chart: waiting, running, lost and failed attempts over the runs that trained."""

from __future__ import annotations

import pytest

from orchestrator.history import AttemptHistory, Histories, RunSpan, StageHistory
from orchestrator.report.page.timeline import GAP, MAX_RUNS, WIDTH, Timeline, make_timeline

KEY = "a" * 64


def timeline(*attempts: AttemptHistory, runs: tuple[RunSpan, ...], state: str = "done") -> Timeline:
    histories = Histories({KEY: StageHistory(list(attempts))}, runs)
    return make_timeline({"train": KEY}, histories, states={"train": state})


def bars(found: Timeline) -> list[tuple[str, float, float]]:
    (row,) = found.rows
    return [(bar.kind, bar.x, bar.width) for bar in row.bars]


def test_a_stage_waits_runs_is_lost_and_runs_again() -> None:
    found = timeline(
        AttemptHistory("1", 1, 100, 300, lost="lost a worker"),
        AttemptHistory("1", 2, 400, 960),
        runs=(RunSpan("1", 0, 960),),
    )
    assert bars(found) == [
        ("waiting", 0, 100),
        ("lost", 100, 200),
        ("waiting", 300, 100),
        ("running", 400, 560),
    ]
    assert found.rows[0].bars[1].text == "lost 3 min: lost a worker"


@pytest.mark.parametrize("state", ["failed", "lost"])
def test_the_last_attempt_of_a_failed_stage_is_red(state: str) -> None:
    run = RunSpan("1", 0, 960)
    found = timeline(AttemptHistory("1", 1, 0, 960), runs=(run,), state=state)
    assert bars(found)[-1][0] == "lost"


def test_two_runs_have_a_gap_between_them() -> None:
    found = timeline(
        AttemptHistory("1", 1, 0, 100),
        AttemptHistory("2", 1, 900_000, 900_100),
        runs=(RunSpan("1", 0, 100), RunSpan("2", 900_000, 900_100)),
    )
    first, second = found.runs
    assert first.width == second.width == (WIDTH - GAP) / 2
    assert second.x == first.width + GAP


def test_a_stage_of_an_earlier_run_is_marked_as_reused() -> None:
    runs = (RunSpan("1", 0, 100), RunSpan("2", 200, 300))
    assert timeline(AttemptHistory("1", 1, 0, 100), runs=runs).rows[0].is_reused
    assert not timeline(AttemptHistory("2", 1, 200, 300), runs=runs).rows[0].is_reused


def test_a_short_attempt_is_still_seen() -> None:
    found = timeline(AttemptHistory("1", 1, 5, 6), runs=(RunSpan("1", 0, 1_000_000),))
    assert bars(found)[-1][2] >= 2


def test_old_runs_are_left_out_and_counted() -> None:
    numbers = range(MAX_RUNS + 3)
    runs = tuple(RunSpan(f"{number:02}", 10 * number, 10 * number + 5) for number in numbers)
    attempts = [AttemptHistory(run.run_id, 1, run.began_at_s, run.ended_at_s) for run in runs]
    found = timeline(*attempts, runs=runs)
    assert len(found.runs) == MAX_RUNS
    assert found.num_left_out == 3
    assert {bar.kind for bar in found.rows[0].bars} == {"waiting", "running"}


def test_a_job_that_never_ran_has_an_empty_chart() -> None:
    found = make_timeline({"train": KEY}, Histories({}, ()), states={})
    assert found.runs == ()
    assert found.rows[0].bars == ()
