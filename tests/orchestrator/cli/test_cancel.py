"""`orchestrator cancel` writes requests for a running run, and explains why it cannot."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import pytest

from orchestrator.cli import job as cli_job
from orchestrator.cli.arguments import parse_arguments
from orchestrator.cli.cancel import cancel
from orchestrator.contract import Event
from orchestrator.errors import JobError, OrchestratorError, SpecError
from orchestrator.planning import plan_job
from orchestrator.runs.cancel import WHOLE_RUN, load_requests
from orchestrator.runs.journal import Journal, open_journal
from orchestrator.runs.last_run import write_last_run
from orchestrator.runs.record import RunState
from orchestrator.schedule import State
from orchestrator.spec import load_job
from orchestrator.store import Store, open_store
from tests.orchestrator.counting import KINDS

JOB = """
name: counts
stages:
  first:
    matrix: {seed: [1, 2]}
    kind: count
    data: data
  other: {kind: count, data: data, gain: 2.0}
"""
RUN = "20261130T120000-abcdef"


@pytest.fixture
def store(store_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store, either kind, for the job in the current folder."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "content.txt").write_text("content")
    (tmp_path / "job.yaml").write_text(f"{JOB}store: {store_uri}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli_job, "KINDS", KINDS)
    return open_store(store_uri)


def _begin_run(store: Store, *, now_s: float, only: tuple[str, ...] = ()) -> Journal:
    plan = plan_job(load_job(Path("job.yaml"), kinds=KINDS, base_dir=Path.cwd()), store, only=only)
    journal = open_journal(store, plan, run_id=RUN, clock=lambda: now_s)
    write_last_run(store, plan, run_id=RUN)
    journal.enter("other", State.DONE, Event("total 6"))
    journal.write()
    return journal


def _cancel(*words: str) -> str:
    stream = io.StringIO()
    assert cancel(parse_arguments(["cancel", "job.yaml", *words]), stream) == 0
    return stream.getvalue()


def test_a_matrix_means_all_of_its_cells(store: Store) -> None:
    _begin_run(store, now_s=time.time())
    text = _cancel("first")
    assert load_requests(store, RUN) == {"first/1", "first/2"}
    assert f"asked run {RUN} to cancel first/1, first/2" in text


def test_without_a_stage_the_whole_run_is_cancelled(store: Store) -> None:
    _begin_run(store, now_s=time.time())
    assert json.loads(_cancel("--json")) == {"run_id": RUN, "stages": None}
    assert load_requests(store, RUN) == {WHOLE_RUN}


def test_stages_that_cannot_be_cancelled_are_refused(store: Store) -> None:
    _begin_run(store, now_s=time.time())
    with pytest.raises(OrchestratorError, match="counts: nothing to cancel: other is done"):
        _cancel("other")
    with pytest.raises(SpecError, match=f"STAGE: run {RUN} has no stage 'othr', did you mean 'ot"):
        _cancel("othr")
    assert load_requests(store, RUN) == frozenset()


def test_a_stage_outside_a_partial_run_is_refused(store: Store) -> None:
    _begin_run(store, now_s=time.time(), only=("other",))
    with pytest.raises(SpecError, match=f"run {RUN} has no stage 'first'; known: other"):
        _cancel("first")


def test_a_silent_driver_is_asked_with_a_warning(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    """It may be alive: the clocks of two machines differ, or its store was away."""
    _begin_run(store, now_s=time.time() - 600)
    _cancel()
    assert load_requests(store, RUN) == {WHOLE_RUN}
    assert f"the driver of run {RUN} has written nothing for 10 min" in capsys.readouterr().err


def test_only_a_run_that_has_not_ended_can_be_cancelled(store: Store) -> None:
    with pytest.raises(JobError, match="counts: has not run yet in store"):
        _cancel()
    _begin_run(store, now_s=time.time()).end(RunState.DONE)
    with pytest.raises(OrchestratorError, match=rf"run {RUN} ended \d+ s ago, done"):
        _cancel("--run", RUN)
