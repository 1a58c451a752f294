"""The command line as users run it: exit codes, stdout, imports and errors."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from orchestrator.artifact import Manifest
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
from orchestrator.store.publish import publish_manifest
from pipelines import KINDS
from tests.conftest import make_bucket
from tests.s3_server import IGNORING

JOB = """
name: small
store: ./store
stages:
  search: {kind: tune, of: pretrain, space: {lr: {loguniform: [1.0e-4, 1e-3]}}, num_trials: 2}
  pretrain:
    kind: pretrain
    data: images
    params_from: search.best_params
    epochs: 2
    expect: {top1: ">= 50"}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a valid job and the data that it names."""
    (tmp_path / "job.yaml").write_text(JOB)
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / "images" / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / "images" / split / name / "1.png")
    return tmp_path


def _orchestrator(
    folder: Path, *arguments: str, env: Mapping[str, str] = {}
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "orchestrator", *arguments]
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.fixture
def poisoned(tmp_path: Path) -> dict[str, str]:
    """An environment in which importing torch or ray fails."""
    for name in ("torch", "ray"):
        (tmp_path / "poison" / name).mkdir(parents=True)
        (tmp_path / "poison" / name / "__init__.py").write_text(
            f"raise ImportError('{name} was imported')"
        )
    return {"PYTHONPATH": f"{tmp_path / 'poison'}:{os.environ['PYTHONPATH']}"}


@pytest.mark.parametrize("verb", ["validate", "plan", "status", "report"])
def test_read_only_verbs_import_neither_torch_nor_ray(
    folder: Path, poisoned: dict[str, str], verb: str
) -> None:
    done = _orchestrator(folder, verb, "job.yaml", env=poisoned)
    assert done.returncode == 0
    assert done.stderr == ""


def test_status_of_a_store_lists_its_runs(
    folder: Path, poisoned: dict[str, str], store_uri: str
) -> None:
    job = load_job(folder / "job.yaml", kinds=KINDS, store=store_uri, base_dir=folder)
    store = open_store(store_uri)
    plan = plan_job(job, store)
    for run_id in ("20260101T000000-a", "20260102T000000-b"):
        open_journal(store, plan, run_id=run_id)
        write_last_run(store, plan, run_id=run_id)
    done = _orchestrator(folder, "status", "--store", store_uri, env=poisoned)
    header, *rows = [line.split()[:4] for line in done.stdout.splitlines()]
    assert header == ["job", "run", "state", "stages"]
    assert sorted(row[1] for row in rows) == ["20260101T000000-a", "20260102T000000-b"]
    assert [(row[0], *row[2:]) for row in rows] == [("small", "running", "0/2")] * 2
    assert (done.returncode, done.stderr) == (0, "")
    document = _orchestrator(folder, "status", "--store", store_uri, "--json", env=poisoned)
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


def test_validate_needs_no_data_but_plan_does(folder: Path) -> None:
    (folder / "images").rename(folder / "gone")
    assert _orchestrator(folder, "validate", "job.yaml").returncode == 0
    plan = _orchestrator(folder, "plan", "job.yaml")
    assert plan.returncode == 2
    assert f"{folder}/images/train: " in plan.stderr
    run = _orchestrator(folder, "run", "job.yaml")
    assert run.returncode == 2
    assert run.stderr == plan.stderr


def test_run_warns_about_the_server_before_importing_ray(
    folder: Path, poisoned: dict[str, str], s3_endpoint: str
) -> None:
    done = _orchestrator(
        folder, "run", "job.yaml", "--store", f"s3://{make_bucket(IGNORING)}/a", env=poisoned
    )
    warning, rest = done.stderr.split("\n", 1)
    assert warning.startswith("warning: store s3://ignoring-")
    assert (
        "does not support conditional puts (If-None-Match), so only one run at a time may use this "
        "store"
    ) in warning
    assert "ImportError: ray was imported" in rest or "ImportError: torch was imported" in rest


def test_plan_json_is_the_only_output_on_stdout(folder: Path) -> None:
    done = _orchestrator(folder, "plan", "job.yaml", "--json")
    stages = json.loads(done.stdout)["stages"]
    assert [(stage["name"], stage["verdict"], stage["needs"]) for stage in stages] == [
        ("search", "RUN", []),
        ("pretrain", "RUN", ["search"]),
    ]


def test_wrong_job_exits_with_2_and_every_fault(folder: Path) -> None:
    (folder / "job.yaml").write_text(
        JOB.replace("epochs: 2", "epoch: 2").replace("data: images", "data: 3")
    )
    done = _orchestrator(folder, "validate", "job.yaml", "--set", "stages.pretrain.batch_size=-1")
    assert done.returncode == 2
    assert "job.yaml:8:11: stages.pretrain.data: " in done.stderr
    assert (
        "job.yaml:10:5: stages.pretrain.epoch: unknown field, did you mean 'epochs'?" in done.stderr
    )
    assert "--set stages.pretrain.batch_size: " in done.stderr
    assert "Traceback" not in done.stderr


def test_faults_are_json_with_the_json_option(folder: Path) -> None:
    done = _orchestrator(folder, "validate", "nowhere.yaml", "--json")
    document = json.loads(done.stdout)
    assert document["exit_code"] == done.returncode == 2
    assert len(document["errors"]) == 1
    assert document["errors"][0].startswith("nowhere.yaml: ")


def test_report_of_an_empty_store_has_not_run_cells(folder: Path) -> None:
    done = _orchestrator(folder, "report", "job.yaml", "--format", "json")
    cells = json.loads(done.stdout)["cells"]
    assert [(cell["stage"], cell["metric"], cell["verdict"]) for cell in cells] == [
        ("search", "top1", "not_run"),
        ("pretrain", "top1", "not_run"),
        ("pretrain", "top5", "not_run"),
        ("pretrain", "loss", "not_run"),
        ("pretrain", "images_per_s", "not_run"),
        ("pretrain", "data_wait", "not_run"),
    ]
    assert cells[1]["expected"] == ">= 50"
    assert set(cells[0]) == {
        *(
            "stage",
            "metric",
            "value",
            "unit",
            "expected",
            "published",
            "published_source",
            "delta",
            "verdict",
            "key",
        ),
        *("label", "differs", "split", "num_samples"),
    }


def test_report_is_written_to_the_output_file(folder: Path) -> None:
    done = _orchestrator(folder, "report", "job.yaml", "--json", "--output", "report.json")
    assert done.returncode == 0
    assert done.stdout == ""
    assert json.loads((folder / "report.json").read_text())["job"] == "small"
    done = _orchestrator(folder, "report", "job.yaml", "--output", "no/such/report.json")
    assert done.returncode == 3
    assert (
        "--output no/such/report.json: cannot be written: No such file or directory" in done.stderr
    )


def test_each_format_compares_with_published_numbers(folder: Path) -> None:
    options = ("report", "job.yaml", "--set", "stages.pretrain.published=imagenet1k/cat_tiny")
    cell = json.loads(_orchestrator(folder, *options, "--json").stdout)["cells"][1]
    assert cell["published"] == 80.3
    assert cell["published_source"] == "arXiv 2106.05786, ImageNet-1K, CAT-T*"
    assert cell["label"] == "other recipe"
    assert cell["differs"] == "epochs 2 instead of 300; precision fp32 instead of fp16; lr searched"
    markdown = _orchestrator(folder, *options, "--format", "markdown").stdout
    assert "| pretrain | top1 | - | >= 50 | 80.30 |  | other recipe | not_run |  |" in markdown
    command = f"orchestrator run job.yaml --set {options[-1]} --store {folder}/store"
    assert f"\nReproduce: `{command}`\n" in markdown
    note = "pretrain: not a reproduction of arXiv 2106.05786, ImageNet-1K, CAT-T* (other recipe)"
    assert (
        f"\n{note}: epochs 2 instead of 300; precision fp32 instead of fp16; lr searched\n"
        in _orchestrator(folder, *options).stdout
    )


def test_csv_files_have_the_line_ends_of_rfc_4180(folder: Path) -> None:
    done = _orchestrator(folder, "report", "job.yaml", "--format", "csv", "--output", "report.csv")
    assert done.returncode == 0
    assert done.stdout == ""
    header, *records, end = (folder / "report.csv").read_bytes().split(b"\r\n")
    assert header.startswith(b"stage,metric,value,unit,expected,published,")
    assert len(records) == 6
    assert end == b""


def test_unknown_published_row_is_a_fault(folder: Path) -> None:
    done = _orchestrator(
        folder, "validate", "job.yaml", "--set", "stages.pretrain.published=imagenet1k/cat_smal"
    )
    assert done.returncode == 2
    fault = "unknown published row 'imagenet1k/cat_smal', did you mean 'imagenet1k/cat_small'?"
    assert done.stderr == f"--set stages.pretrain.published: {fault}\n"


def test_json_and_another_format_are_refused(folder: Path) -> None:
    done = _orchestrator(folder, "report", "job.yaml", "--json", "--format", "csv")
    assert done.returncode == 2
    assert "argument --json: not allowed with argument --format csv" in done.stderr


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
    done = _orchestrator(folder, "status", "job.yaml")
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        "small: has not run yet",
        "search: waiting, it has not run yet",
        "pretrain: waiting, it has not run yet",
    ]
    document = json.loads(_orchestrator(folder, "status", "job.yaml", "--json").stdout)
    assert document["schema"] == 1
    assert document["run_id"] is None
    assert document["state"] == "waiting"


def test_status_needs_neither_the_data_nor_torch_nor_ray(
    folder: Path, silent_run: Path, poisoned: dict[str, str]
) -> None:
    (folder / "images").rename(folder / "gone")
    done = _orchestrator(folder, "status", "job.yaml", env=poisoned)
    assert done.returncode == 0
    assert done.stderr == ""
    run, search, pretrain = done.stdout.splitlines()
    assert run.endswith("lost: no update for 1 h 0 min; run the same command again to resume")
    assert search == "search: lost, attempt 1, 1 h 0 min ago: starting"
    assert pretrain == "pretrain: waiting, it has not started yet"


def test_watch_of_an_ended_run_ends_at_once(folder: Path, silent_run: Path) -> None:
    done = _orchestrator(folder, "status", "job.yaml", "--watch", "--json")
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
    done = _orchestrator(folder, "status", "job.yaml")
    assert done.returncode == 3
    assert done.stderr == (
        f"store {folder}/store: runs/r/run.json: not a record of a run: run_id: Field required; "
        "run the job again to write a new one\n"
    )


def test_status_of_an_unreachable_store_exits_with_3(folder: Path, s3_endpoint: str) -> None:
    done = _orchestrator(folder, "status", "job.yaml", "--store", "s3://no-such-bucket")
    assert done.returncode == 3
    assert "store s3://no-such-bucket: cannot read jobs/small/latest.json: " in done.stderr
    assert "Traceback" not in done.stderr


def test_unwritable_store_exits_with_3(folder: Path) -> None:
    (folder / "file").write_text("")
    done = _orchestrator(folder, "run", "job.yaml", "--store", "file")
    assert done.returncode == 3
    assert f"store {folder}/file: cannot " in done.stderr
    assert "Traceback" not in done.stderr


def test_missing_cluster_exits_with_3(folder: Path) -> None:
    done = _orchestrator(folder, "run", "job.yaml", "--address", "127.0.0.1:1")
    assert done.returncode == 3
    assert "cluster 127.0.0.1:1: cannot connect: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("option", ["--only", "--force"])
def test_unknown_stage_in_an_option_is_refused(folder: Path, option: str) -> None:
    done = _orchestrator(folder, "run", "job.yaml", option, "pretrian")
    assert done.returncode == 2
    assert f"{option}: unknown stage 'pretrian', did you mean 'pretrain'?" in done.stderr


def test_forced_stage_that_would_not_run_is_refused(folder: Path) -> None:
    done = _orchestrator(folder, "run", "job.yaml", "--only", "search", "--force", "pretrain")
    assert done.returncode == 2
    assert done.stderr == (
        "--force: pretrain would not run: --only runs search and the stages that they need; "
        "add it to --only or remove it from --force\n"
    )


def test_run_without_stdout_or_other_data_still_ends_cleanly(folder: Path) -> None:
    (folder / "job.yaml").write_text(f"{JOB}  other: {{kind: pretrain, data: nowhere}}\n")
    job = load_job(folder / "job.yaml", kinds=KINDS, base_dir=folder)
    store = open_store(job.store)
    plan = plan_job(job, store, only=("search",))
    nothing: dict[str, Any] = {
        "recipe": {},
        "params": {},
        "artifacts": {},
        "metrics": (),
        "provenance": {},
    }
    publish_manifest(
        store, Manifest(key=plan["search"].key, stage="search", kind="tune", **nothing)
    )
    command = f"{sys.executable} -m orchestrator run job.yaml --only search >/dev/full"
    done = subprocess.run(
        command, cwd=folder, shell=True, capture_output=True, text=True, timeout=600, check=False
    )
    *_, error, verdict = done.stderr.splitlines()
    assert (
        error == "stdout: cannot be written: No space left on device; write the results elsewhere"
    )
    assert done.returncode == 3
    assert verdict == "small: done: 1 stage, 1 of them reused"


def test_quickstart_is_valid_and_has_its_four_stages() -> None:
    root = Path(__file__).parents[3]
    done = _orchestrator(root, "validate", "jobs/quickstart.yaml", "--json")
    assert json.loads(done.stdout)["stages"] == ["search", "pretrain", "detection", "segmentation"]


def test_every_job_file_of_the_repository_validates() -> None:
    root = Path(__file__).parents[3]
    for path in sorted((root / "jobs").glob("*.yaml")):
        assert _orchestrator(root, "validate", str(path)).returncode == 0, path


def test_names_that_are_not_utf8_cause_no_traceback(folder: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    (folder / "images/train/cat" / f"{name}.png").write_bytes(b"")
    plan = _orchestrator(folder, "plan", "job.yaml")
    assert plan.returncode == 2
    assert (
        "images/train: file names that are not UTF-8: train/cat/caf\\xe9.png; rename" in plan.stderr
    )
    argument = _orchestrator(folder, "validate", f"{name}.yaml", "--json")
    assert argument.returncode == 2
    assert argument.stderr.endswith(
        "error: argument caf\\xe9.yaml: not UTF-8 text; rename the file or folder\n"
    )
    (folder / name).mkdir()
    current = _orchestrator(folder / name, "plan", "../job.yaml")
    assert current.returncode == 2
    assert current.stdout == ""
    assert current.stderr.endswith(
        "/caf\\xe9: the current folder's name is not UTF-8 text; rename it\n"
    )


LAST = """
import os, sys
from orchestrator.cli.console import end, reserved_stdout, say_last
with reserved_stdout() as stdout:
    print("progress", file=sys.stderr)
    say_last("job: done")
    for stream in (1, 2):
        os.write(stream, b"core_worker_process.cc: a library's own last line\\n")
    print("results", file=stdout)
end(3)
"""


def test_verdict_is_the_last_line_of_a_log() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LAST], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 3
    assert done.stdout == "results\n"
    assert done.stderr == "progress\njob: done\n"


FULL_DISK = """
import errno
from orchestrator import cli
def fill(*_):
    raise OSError(errno.ENOSPC, "No space left on device", "/tmp/orchestrator-x")
cli.VERBS = {**cli.VERBS, "schema": fill}
cli.main(["schema"])
"""


def test_full_disk_of_this_machine_exits_with_3_and_advice() -> None:
    command = [sys.executable, "-c", FULL_DISK]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr == (
        "/tmp/orchestrator-x: No space left on device; free some space, or set TMPDIR and "
        "XDG_CACHE_HOME to folders with more room\n"
    )
