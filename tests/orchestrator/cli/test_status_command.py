"""`orchestrator status` as users run it: runs of a store, watching, damaged records."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.cli.arguments import parse_arguments
from orchestrator.cli.job import store_at
from orchestrator.contract import Event
from orchestrator.errors import SpecError
from orchestrator.planning import plan_job
from orchestrator.runs.journal import open_journal
from orchestrator.runs.last_run import write_last_run
from orchestrator.schedule import State
from orchestrator.spec import load_job
from orchestrator.store import open_store
from pipelines import KINDS
from tests.orchestrator.cli.command import orchestrator


def test_status_of_a_store_lists_its_runs(
    folder: Path, poisoned: dict[str, str], store_uri: str
) -> None:
    job = load_job(folder / "job.yaml", kinds=KINDS, store=store_uri, base_dir=folder)
    store = open_store(store_uri)
    plan = plan_job(job, store)
    for run_id in ("20260101T000000-a", "20260102T000000-b"):
        open_journal(store, plan, run_id=run_id)
        write_last_run(store, plan, run_id=run_id)
    done = orchestrator(folder, "status", "--store", store_uri, env=poisoned)
    header, *rows = [line.split()[:4] for line in done.stdout.splitlines()]
    assert header == ["job", "run", "state", "stages"]
    assert sorted(row[1] for row in rows) == ["20260101T000000-a", "20260102T000000-b"]
    assert [(row[0], *row[2:]) for row in rows] == [("small", "running", "0/2")] * 2
    assert (done.returncode, done.stderr) == (0, "")
    document = orchestrator(folder, "status", "--store", store_uri, "--json", env=poisoned)
    assert [run["job"] for run in json.loads(document.stdout)["runs"]] == ["small"] * 2


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((), "JOB is required, or --store URI to list the runs of a store"),
        (("--store", "store", "--watch"), "argument --watch: needs JOB"),
        (("--store", "store", "--set", "seed=1"), "argument --set: needs JOB"),
        (("job.yaml", "--all"), "argument --all: not allowed with JOB"),
    ],
)
def test_status_refuses_options_that_do_not_fit(
    arguments: tuple[str, ...], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse_arguments(["status", *arguments])
    assert capsys.readouterr().err.endswith(f"error: {error}\n")


def test_status_refuses_a_store_that_is_not_one() -> None:
    with pytest.raises(SpecError, match=r"^--store: ~ is not expanded; .*not '~/store'"):
        store_at("~/store")


@pytest.fixture
def silent_run(folder: Path) -> Path:
    """Add a run to the store whose driver was last heard of an hour ago. Returns the path of its
    record."""
    job = load_job(folder / "job.yaml", kinds=KINDS, base_dir=folder)
    store, began_at_s = open_store(job.store), time.time() - 3600
    plan = plan_job(job, store)
    journal = open_journal(store, plan, run_id="r", clock=lambda: began_at_s)
    journal.enter("search", State.RUNNING, Event("starting"))
    journal.write()
    write_last_run(store, plan, run_id="r")
    return folder / "store" / "runs" / "r" / "run.json"


def test_status_of_a_job_that_never_ran_has_waiting_stages(folder: Path) -> None:
    done = orchestrator(folder, "status", "job.yaml")
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        "small: has not run yet",
        "search: waiting, it has not run yet",
        "pretrain: waiting, it has not run yet",
    ]
    document = json.loads(orchestrator(folder, "status", "job.yaml", "--json").stdout)
    assert document["schema"] == 1
    assert document["run_id"] is None
    assert document["state"] == "waiting"


def test_status_needs_neither_the_data_nor_torch_nor_ray(
    folder: Path, silent_run: Path, poisoned: dict[str, str]
) -> None:
    (folder / "images").rename(folder / "gone")
    done = orchestrator(folder, "status", "job.yaml", env=poisoned)
    assert done.returncode == 0
    assert done.stderr == ""
    run, search, pretrain = done.stdout.splitlines()
    assert run.endswith("lost: no update for 1 h 0 min; run the same command again to resume")
    assert search == "search: lost, attempt 1, 1 h 0 min ago: starting"
    assert pretrain == "pretrain: waiting, it has not started yet"


def test_watch_of_an_ended_run_ends_at_once(folder: Path, silent_run: Path) -> None:
    done = orchestrator(folder, "status", "job.yaml", "--watch", "--json")
    (line,) = done.stdout.splitlines()
    assert done.returncode == 0
    assert json.loads(line)["state"] == "lost"


def test_ctrl_c_ends_watch_with_130_and_no_traceback(folder: Path, silent_run: Path) -> None:
    record = json.loads(silent_run.read_text())
    silent_run.write_text(json.dumps({**record, "heard_at_s": time.time() + 1e6}))
    # As on a terminal: a shell may start background jobs, and so these tests, ignoring Ctrl-C.
    handler = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{handler}; from orchestrator.cli import main; main(['status', 'job.yaml', '--watch'])"
    command = [sys.executable, "-c", code]
    watch = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert watch.stdout is not None
    assert "running, last update 0 s ago" in watch.stdout.readline()
    watch.send_signal(signal.SIGINT)
    _, errors = watch.communicate(timeout=600)
    assert watch.returncode == 130
    assert errors == "interrupted\n"


def test_reader_of_status_may_close_the_pipe_early(folder: Path, silent_run: Path) -> None:
    record = json.loads(silent_run.read_text())
    stages = {f"stage{number}": record["stages"]["search"] for number in range(2000)}
    silent_run.write_text(json.dumps({**record, "stages": stages}))
    command = f"{sys.executable} -m orchestrator status job.yaml | head -1"
    done = subprocess.run(
        command, cwd=folder, shell=True, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


def test_status_reports_a_damaged_record(folder: Path, silent_run: Path) -> None:
    silent_run.write_text('{"schema_version": 1}')
    done = orchestrator(folder, "status", "job.yaml")
    assert done.returncode == 3
    assert done.stderr == (
        f"store {folder}/store: runs/r/run.json: not a record of a run: run_id: Field required; "
        "run the job again to write a new one\n"
    )


def test_status_of_an_unreachable_store_exits_with_3(folder: Path, s3_endpoint: str) -> None:
    done = orchestrator(folder, "status", "job.yaml", "--store", "s3://no-such-bucket")
    assert done.returncode == 3
    assert "store s3://no-such-bucket: cannot read jobs/small/latest.json: " in done.stderr
    assert "Traceback" not in done.stderr
