"""The verb logs, and what run prints about a failed stage."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.cli.arguments import parse_arguments
from orchestrator.cli.failed_stage import await_rest
from orchestrator.cli.logs import harmless, logs
from orchestrator.contract import Event
from orchestrator.errors import JobError
from orchestrator.planning import plan_job
from orchestrator.runs.journal import Journal, open_journal
from orchestrator.runs.last_run import write_last_run
from orchestrator.runs.record import RunState
from orchestrator.schedule import State
from orchestrator.spec import load_job
from orchestrator.store import open_store
from orchestrator.store.stage_logs import LogName, LogWriter, driver_folder
from orchestrator.streams import Output
from tests.orchestrator.counting import KINDS

SECRET = "open-sesame"
STAGE = {"kind": "count", "data": "data"}
GAINS = {"gain": [1, 2]}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a job of two stages and their data."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "content.txt").write_text("content")
    stages = {"one": {**STAGE, "says": f"key {SECRET}", "fails": "late_bug"}, "two": STAGE}
    (tmp_path / "job.yaml").write_text(
        json.dumps({"name": "talks", "store": "./store", "stages": stages})
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("orchestrator.cli.job.KINDS", KINDS)
    return tmp_path


@pytest.fixture
def journal(folder: Path) -> Journal:
    """A run in which two ranks of two attempts at stage `one` have printed."""
    job = load_job(folder / "job.yaml", kinds=KINDS, base_dir=folder)
    store = open_store(job.store)
    plan = plan_job(job, store)
    journal = open_journal(store, plan, run_id="now")
    write_last_run(store, plan, run_id="now")
    for attempt in (1, 2):
        for rank in (0, 1):
            name = LogName(None, attempt, rank).folder("now", "one")
            LogWriter(store, name, 2**20).write(f"attempt {attempt} rank {rank}\n".encode())
    LogWriter(store, driver_folder("now"), 2**20).write(b"driver\n")
    return journal


def _shown(folder: Path, *words: str) -> str:
    path = folder / "shown"
    with path.open("wb") as file:
        stdout = Output(file.fileno(), is_for_results=True)
        assert logs(parse_arguments(["logs", "job.yaml", *words]), stdout) == 0
        stdout.flush()
    return path.read_text()


def test_newest_attempt_and_lowest_rank_are_the_default(folder: Path, journal: Journal) -> None:
    assert _shown(folder, "one") == "attempt 2 rank 0\n"
    assert _shown(folder, "one", "--attempt", "1", "--rank", "1") == "attempt 1 rank 1\n"
    assert _shown(folder) == _shown(folder, "--driver") == "driver\n"


def test_last_trial_is_the_default_of_a_search(folder: Path, journal: Journal) -> None:
    for trial in ("00001", "00002"):
        name = LogName(trial, 1, 0).folder("now", "two")
        LogWriter(journal.store, name, 2**20).write(f"trial {trial}\n".encode())
    assert _shown(folder, "two") == "trial 00002\n"
    assert _shown(folder, "two", "--trial", "1") == "trial 00001\n"


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("on",), "run now has no stage 'on', did you mean 'one'?"),
        (
            ("one", "--attempt", "3"),
            "--attempt 3: stage one has no such log .*has attempt 1, 2",
        ),
        (("one", "--rank", "2"), "--rank 2: stage one has no such log .*has rank 0, 1"),
        (("one", "--trial", "1"), "--trial 00001: stage one has no such log .*has no trials"),
        (("two",), "stages.two: is waiting in run now; no worker has started"),
        (("one", "--run", "then"), "--run then: unknown in store .*; the last is now"),
    ],
)
def test_unknown_log_is_an_error_that_lists_what_exists(
    folder: Path, journal: Journal, words: tuple[str, ...], error: str
) -> None:
    with pytest.raises(JobError, match=error.replace("?", r"\?")):
        _shown(folder, *words)


def test_name_of_a_matrix_is_an_error_that_lists_its_cells(folder: Path) -> None:
    """A run of another version of the job, with a matrix, is the last."""
    matrix = {"name": "talks", "store": "./store", "stages": {"one": {**STAGE, "matrix": GAINS}}}
    (folder / "matrix.json").write_text(json.dumps(matrix))
    job = load_job(folder / "matrix.json", kinds=KINDS, base_dir=folder)
    store = open_store(job.store)
    plan = plan_job(job, store)
    open_journal(store, plan, run_id="now")
    write_last_run(store, plan, run_id="now")
    with pytest.raises(JobError, match=r"^'one' is a matrix; name one of its cells: one/1, one/2$"):
        _shown(folder, "one")


def test_missing_log_of_the_driver_is_an_error(folder: Path, journal: Journal) -> None:
    shutil.rmtree(folder / "store" / driver_folder("now"))
    with pytest.raises(JobError, match=r"^run now: its driver has no log in the store$"):
        _shown(folder)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--rank", "0"), "argument --rank: needs STAGE"),
        (("--driver", "--trial", "1"), "argument --trial: needs STAGE"),
        (("one", "--driver"), "argument --driver: not allowed with STAGE"),
    ],
)
def test_option_that_would_be_ignored_is_an_error(
    words: tuple[str, ...], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse_arguments(["logs", "job.yaml", *words])
    assert error in capsys.readouterr().err


def test_following_shows_new_text_and_attempts_until_the_stage_ends(
    folder: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = journal.store
    journal.enter("one", State.RUNNING, Event("starting"))
    journal.write()
    steps: list[Callable[[], object]] = [
        lambda: LogWriter(store, LogName(None, 2, 0).folder("now", "one"), 9, 1).write(b"more\n"),
        lambda: LogWriter(store, LogName(None, 3, 0).folder("now", "one"), 9).write(b"newest\n"),
        lambda: journal.enter("one", State.DONE, Event("done")),
        journal.write,
    ]
    module = sys.modules["orchestrator.cli.logs"]  # its name in the package is the verb
    monkeypatch.setattr(module, "_wait", lambda: steps.pop(0)())  # noqa: PLW0108  a step per wait
    assert _shown(folder, "one", "--follow") == (
        "attempt 2 rank 0\nmore\n[orchestrator: attempt 3 of one]\nnewest\n"
    )


def test_following_waits_for_the_attempt_and_for_rank_0(
    folder: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = journal.store
    journal.enter("two", State.RUNNING, Event("starting"))
    journal.write()
    steps: list[Callable[[], object]] = [
        lambda: LogWriter(store, LogName(None, 1, 1).folder("now", "two"), 9).write(b"rank 1\n"),
        lambda: LogWriter(store, LogName(None, 1, 0).folder("now", "two"), 9).write(b"rank 0\n"),
        lambda: LogWriter(store, LogName(None, 2, 1).folder("now", "two"), 9).write(b"newest\n"),
        lambda: journal.enter("two", State.DONE, Event("done")),
        journal.write,
    ]
    module = sys.modules["orchestrator.cli.logs"]  # its name in the package is the verb
    monkeypatch.setattr(module, "_wait", lambda: steps.pop(0)())  # noqa: PLW0108  a step per wait
    assert _shown(folder, "two", "--follow") == "rank 0\n[orchestrator: attempt 2 of two]\nnewest\n"


def test_rest_of_a_lost_workers_log_is_awaited_until_it_has_settled(journal: Journal) -> None:
    log = LogName(None, 1, 0).folder("now", "one")
    steps = [b"", b"", b"killed\n", *[b""] * 9]

    def wait(seconds: float) -> None:
        if text := steps.pop(0):
            LogWriter(journal.store, log, 2**20, 1).write(text)

    await_rest(journal.store, log, wait=wait, settled_s=3, most_s=99)
    assert len(steps) == 12 - 6
    await_rest(journal.store, log, wait=wait, settled_s=99, most_s=2)
    assert len(steps) == 12 - 8


def test_following_the_driver_ends_with_the_run(folder: Path, journal: Journal) -> None:
    threading.Timer(0.5, lambda: journal.end(RunState.DONE)).start()
    assert _shown(folder, "--follow") == "driver\n"


def test_text_cannot_control_a_terminal() -> None:
    text = "\x1b[1;31mred\x1b[0m \x1b]0;title\x07 50%\r100%\r\nnext\ttab\n"
    assert harmless(text) == "red \\x1b]0;title\\x07 50%\n100%\nnext\ttab\n"


def _run(folder: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.orchestrator", *words]
    environ = {**os.environ, "SOME_SECRET": SECRET, **env}
    return subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, check=False
    )


def test_failed_stage_shows_its_last_lines_and_the_command_for_the_rest(
    folder: Path, cluster_address: str
) -> None:
    done = _run(folder, "run", "job.yaml", "--only", "one", "--address", cluster_address)
    assert done.returncode == 1
    assert (
        "    rank 0 epoch 1: key open-sesame\n"
        "the whole log: orchestrator logs job.yaml one --attempt 1 --rank 0 --run "
    ) in done.stderr
    assert done.stderr.count("Traceback") == 1
    (command,) = re.findall("the whole log: orchestrator (.*)", done.stderr)
    whole = _run(folder, *shlex.split(command)).stdout
    assert "\nrank 0 epoch 1: key open-sesame\nZeroDivisionError: a late bug\n" in whole
    assert " stage one, attempt 1, rank 0 of 1, process " in whole.splitlines()[0]
    driver = _run(folder, "logs", "job.yaml").stdout
    assert "one: failed: ZeroDivisionError: a late bug\n" in driver
    assert "rank 0 epoch 1: key ***\n" in driver, "SOME_SECRET is set here, but not in the cluster"
    assert driver.splitlines()[-1] == done.stderr.splitlines()[-1]


def test_wrong_setting_ends_a_run_before_it_begins(folder: Path) -> None:
    done = _run(folder, "run", "job.yaml", ORCHESTRATOR_LOG_FLUSH_S="soon")
    assert done.returncode == 2
    assert done.stderr.startswith("ORCHESTRATOR_LOG_FLUSH_S is 'soon', not a number of seconds")
    assert not (folder / "store").exists()
