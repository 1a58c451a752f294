"""Messages of real runs to a real receiver: when they are sent, and that no output has the URL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import pytest

from orchestrator.cli.messages import Messages
from orchestrator.contract import Event
from orchestrator.errors import ClusterError, InterruptedRunError, StageError
from orchestrator.notify import Sender
from orchestrator.progress import Update
from orchestrator.report import Cell, CellVerdict
from orchestrator.run import Outcome
from orchestrator.schedule import State
from orchestrator.spec import Job, load_job
from tests.orchestrator.counting import KINDS
from tests.webhook import SECRET, Receiver, receiving, unused_url

JOB = """
name: counts
store: ./store
notify: {url_env: CHAT_URL}
stages:
  first: {kind: count, data: data, epochs: 1}
  second: {kind: count, data: data, gain: 2.0, epochs: 2, expect: {total: ">= 5"}}
"""
Runner = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def run(tmp_path: Path, cluster_address: str) -> Runner:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "content.txt").write_text("content")

    def run_job(
        url: str | None, *overrides: str, text: str = JOB, verb: str = "run"
    ) -> subprocess.CompletedProcess[str]:
        (tmp_path / "job.yaml").write_text(text)
        done = subprocess.run(
            _command(verb, *overrides),
            cwd=tmp_path,
            env=_environment(url),
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert SECRET not in done.stdout + done.stderr + _records(tmp_path)
        return done

    return run_job


def _command(verb: str, *overrides: str) -> list[str]:
    options = [word for override in overrides for word in ("--set", override)]
    return [sys.executable, "-m", "tests.orchestrator", verb, "job.yaml", *options]


def _environment(url: str | None) -> dict[str, str]:
    return {**os.environ, **({} if url is None else {"CHAT_URL": url})}


def _records(folder: Path) -> str:
    return "".join(path.read_text() for path in (folder / "store").rglob("*.json*"))


def _headlines(receiver: Receiver) -> list[str]:
    return [text.splitlines()[0] for text in receiver.texts]


def test_run_that_misses_an_expectation_sends_one_message(run: Runner, receiver: Receiver) -> None:
    done = run(receiver.url)
    assert done.returncode == 0, done.stderr
    (text,) = receiver.texts
    verdict, missed, _, command = text.splitlines()
    assert verdict == done.stderr.splitlines()[-1]
    assert verdict.endswith("0 of 1 expectations met")
    assert missed == "• second: total is 4.00 %, expected &gt;= 5"
    assert command.startswith("`orchestrator report job.yaml --store /")


def test_failed_stage_is_sent_at_once_and_the_end_later(run: Runner, receiver: Receiver) -> None:
    done = run(receiver.url, "stages.first.fails=bug", "stages.second.epoch_s=4")
    assert done.returncode == 1, done.stderr
    assert _headlines(receiver) == ["counts: stage first failed", done.stderr.splitlines()[-1]]
    assert "• first: " in receiver.texts[0]
    assert "ZeroDivisionError" in receiver.texts[0]


def test_receiver_that_hangs_changes_no_exit_code(run: Runner) -> None:
    with receiving(None) as receiver:
        done = run(receiver.url)
    assert done.returncode == 0, done.stderr
    (warning,) = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert warning.startswith("warning: notify: CHAT_URL: the receiver ")
    assert done.stderr.splitlines()[-1].startswith("counts: done: ")


@pytest.mark.parametrize("url", [None, f"slack.example.com/{SECRET}"])
def test_run_without_a_webhook_ends_before_any_work(run: Runner, url: str | None) -> None:
    assert run(url, verb="validate").returncode == 0
    done = run(url)
    assert done.returncode == 2
    assert done.stderr.startswith("notify.url_env: the environment variable CHAT_URL ")
    assert len(done.stderr.splitlines()) == 1


def test_interrupted_run_sends_nothing(run: Runner, receiver: Receiver, tmp_path: Path) -> None:
    run(receiver.url, verb="validate")
    process = subprocess.Popen(
        _command("run", "stages.first.epochs=1000", "stages.first.epoch_s=1"),
        cwd=tmp_path,
        env=_environment(receiver.url),
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 300
    while not (tmp_path / "data" / "worked.log").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    stderr = process.communicate()[1]
    assert process.returncode == 130, stderr
    assert receiver.bodies == []


@pytest.fixture
def job(tmp_path: Path) -> Job:
    (tmp_path / "job.yaml").write_text(JOB)
    return load_job(tmp_path / "job.yaml", kinds=KINDS, base_dir=tmp_path)


def _messages(job: Job, url: str, *on: Literal["failed", "done", "missed"], **env: str) -> Messages:
    assert job.notify is not None
    notify = job.notify.model_copy(update={"on": on} if on else {})
    return Messages(
        replace(job, notify=notify), Path("job.yaml"), environment={"CHAT_URL": url, **env}
    )


def _fail(messages: Messages, *stages: str) -> Outcome:
    """Let the stages fail, as a run does, and block the others."""
    watch = messages.following(lambda _: None)
    states = {
        "first": State.BLOCKED,
        "second": State.BLOCKED,
        **dict.fromkeys(stages, State.FAILED),
    }
    for stage, state in states.items():
        watch(Update(stage, State.RUNNING, Event("starting")))
        watch(Update(stage, state, Event("a bug")))
        watch(Update(stage, state, Event("its last event, which came late")))
    return Outcome(states, {stage: StageError("a bug\nand a trace") for stage in stages})


DONE = Outcome({"first": State.DONE, "second": State.REUSED}, {})
MISSED = Cell(
    stage="second",
    metric="total",
    value=4,
    unit="",
    expected=">= 5",
    verdict=CellVerdict.FAIL,
    key=None,
)


def test_failure_that_ends_the_run_is_sent_once(job: Job, receiver: Receiver) -> None:
    with _messages(job, receiver.url) as messages:
        outcome = _fail(messages, "second")
        messages.end("counts: failed: second; blocked: first", outcome, ())
    (text,) = receiver.texts
    assert text.splitlines()[:2] == ["counts: stage second failed", "• second: a bug"]
    assert text.endswith("/store`")


def test_end_after_a_failure_lists_what_failed(job: Job, receiver: Receiver) -> None:
    with _messages(job, receiver.url) as messages:
        outcome = _fail(messages, "first")
        messages.following(lambda _: None)(Update("second", State.RUNNING, Event("epoch 1")))
        messages.end("counts: failed: first", outcome, (MISSED,))
    assert _headlines(receiver) == ["counts: stage first failed", "counts: failed: first"]
    assert receiver.texts[1].splitlines()[1:3] == [
        "• first: a bug",
        "• second: total is 4.00, expected &gt;= 5",
    ]


@pytest.mark.parametrize(
    ("on", "cells", "num_sent"),
    [
        ("done", (), 1),
        ("done", (MISSED,), 1),
        ("missed", (MISSED,), 1),
        ("missed", (), 0),
        ("failed", (MISSED,), 0),
    ],
)
def test_end_is_sent_only_on_the_wanted_occasions(
    job: Job,
    receiver: Receiver,
    on: Literal["failed", "done", "missed"],
    cells: tuple[Cell, ...],
    num_sent: int,
) -> None:
    with _messages(job, receiver.url, on) as messages:
        messages.end("counts: done: 2 stages", DONE, cells)
    assert len(receiver.bodies) == num_sent


def test_unwanted_failures_are_not_sent(job: Job, receiver: Receiver) -> None:
    with _messages(job, receiver.url, "done", "missed") as messages:
        messages.end("counts: failed: first", _fail(messages, "first"), ())
    with pytest.raises(ClusterError), _messages(job, receiver.url, "done", "missed"):
        raise ClusterError("no cluster")
    assert receiver.bodies == []


@pytest.mark.parametrize(
    ("err", "headlines"),
    [
        (ClusterError("first: needs 8 GPUs\nsecond: too"), ["counts: failed: first: needs 8 GPUs"]),
        (ZeroDivisionError(), ["counts: failed: ZeroDivisionError"]),
        (InterruptedRunError("interrupted"), []),
        (KeyboardInterrupt(), []),
    ],
)
def test_run_that_fails_as_a_whole_sends_why(
    job: Job, receiver: Receiver, err: BaseException, headlines: list[str]
) -> None:
    with pytest.raises(type(err)), _messages(job, receiver.url):
        raise err
    assert _headlines(receiver) == headlines


def test_job_without_notify_sends_nothing(job: Job, receiver: Receiver) -> None:
    silent = replace(job, notify=None)
    with Messages(silent, Path("job.yaml"), environment={"CHAT_URL": receiver.url}) as messages:
        messages.end("counts: done", DONE, (MISSED,))
    assert receiver.bodies == []


def test_secrets_do_not_leave_with_a_message(job: Job, receiver: Receiver) -> None:
    with pytest.raises(StageError), _messages(job, receiver.url, SOME_TOKEN="open-sesame"):
        raise StageError(f"open-sesame was refused at {receiver.url}")
    assert _headlines(receiver) == ["counts: failed: *** was refused at ***"]


def test_absent_receiver_is_a_warning(
    job: Job, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its three tries take 2.5 s on an idle machine.
    monkeypatch.setattr("orchestrator.cli.messages.Sender", partial(Sender, end_wait_s=60))
    noted: list[str] = []
    with _messages(job, unused_url()) as messages:
        messages.warn_also(noted.append)
        messages.end("counts: done", DONE, ())
    assert capsys.readouterr().err == f"{noted[0]}\n"
    assert noted[0] == (
        "warning: notify: CHAT_URL: no connection to the receiver: Connection refused; the message "
        "was not delivered"
    )
