"""The command line as users run it: exit codes, stdout, imports and errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.artifact import Manifest
from orchestrator.planning import plan_job
from orchestrator.spec import load_job
from orchestrator.store import open_store
from orchestrator.store.publish import publish_manifest
from pipelines import KINDS
from tests.conftest import make_bucket
from tests.orchestrator.cli.command import JOB, orchestrator
from tests.s3_server import IGNORING


@pytest.mark.parametrize("verb", ["validate", "plan", "status", "report"])
def test_read_only_verbs_import_neither_torch_nor_ray(
    folder: Path, poisoned: dict[str, str], verb: str
) -> None:
    done = orchestrator(folder, verb, "job.yaml", env=poisoned)
    assert done.returncode == 0
    assert done.stderr == ""


def test_validate_needs_no_data_but_plan_does(folder: Path) -> None:
    (folder / "images").rename(folder / "gone")
    assert orchestrator(folder, "validate", "job.yaml").returncode == 0
    plan = orchestrator(folder, "plan", "job.yaml")
    assert plan.returncode == 2
    assert f"{folder}/images/train: " in plan.stderr
    run = orchestrator(folder, "run", "job.yaml")
    assert run.returncode == 2
    assert run.stderr == plan.stderr


def test_run_warns_about_the_server_before_importing_ray(
    folder: Path, poisoned: dict[str, str], s3_endpoint: str
) -> None:
    done = orchestrator(
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
    done = orchestrator(folder, "plan", "job.yaml", "--json")
    stages = json.loads(done.stdout)["stages"]
    assert [(stage["name"], stage["verdict"], stage["needs"]) for stage in stages] == [
        ("search", "RUN", []),
        ("pretrain", "RUN", ["search"]),
    ]


def test_wrong_job_exits_with_2_and_every_fault(folder: Path) -> None:
    (folder / "job.yaml").write_text(
        JOB.replace("epochs: 2", "epoch: 2").replace("data: images", "data: 3")
    )
    done = orchestrator(folder, "validate", "job.yaml", "--set", "stages.pretrain.batch_size=-1")
    assert done.returncode == 2
    assert "job.yaml:8:11: stages.pretrain.data: " in done.stderr
    assert (
        "job.yaml:10:5: stages.pretrain.epoch: unknown field, did you mean 'epochs'?" in done.stderr
    )
    assert "--set stages.pretrain.batch_size: " in done.stderr
    assert "Traceback" not in done.stderr


def test_faults_are_json_with_the_json_option(folder: Path) -> None:
    done = orchestrator(folder, "validate", "nowhere.yaml", "--json")
    document = json.loads(done.stdout)
    assert document["exit_code"] == done.returncode == 2
    assert len(document["errors"]) == 1
    assert document["errors"][0].startswith("nowhere.yaml: ")


def test_unwritable_store_exits_with_3(folder: Path) -> None:
    (folder / "file").write_text("")
    done = orchestrator(folder, "run", "job.yaml", "--store", "file")
    assert done.returncode == 3
    assert f"store {folder}/file: cannot " in done.stderr
    assert "Traceback" not in done.stderr


def test_missing_cluster_exits_with_3(folder: Path) -> None:
    done = orchestrator(folder, "run", "job.yaml", "--address", "127.0.0.1:1")
    assert done.returncode == 3
    assert "cluster 127.0.0.1:1: cannot connect: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("option", ["--only", "--force"])
def test_unknown_stage_in_an_option_is_refused(folder: Path, option: str) -> None:
    done = orchestrator(folder, "run", "job.yaml", option, "pretrian")
    assert done.returncode == 2
    assert f"{option}: unknown stage 'pretrian', did you mean 'pretrain'?" in done.stderr


def test_forced_stage_that_would_not_run_is_refused(folder: Path) -> None:
    done = orchestrator(folder, "run", "job.yaml", "--only", "search", "--force", "pretrain")
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
    done = orchestrator(root, "validate", "jobs/quickstart.yaml", "--json")
    assert json.loads(done.stdout)["stages"] == ["search", "pretrain", "detection", "segmentation"]


def test_every_job_file_of_the_repository_validates() -> None:
    root = Path(__file__).parents[3]
    for path in sorted((root / "jobs").glob("*.yaml")):
        assert orchestrator(root, "validate", str(path)).returncode == 0, path


def test_names_that_are_not_utf8_cause_no_traceback(folder: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    (folder / "images/train/cat" / f"{name}.png").write_bytes(b"")
    plan = orchestrator(folder, "plan", "job.yaml")
    assert plan.returncode == 2
    assert (
        "images/train: file names that are not UTF-8: train/cat/caf\\xe9.png; rename" in plan.stderr
    )
    argument = orchestrator(folder, "validate", f"{name}.yaml", "--json")
    assert argument.returncode == 2
    assert argument.stderr.endswith(
        "error: argument caf\\xe9.yaml: not UTF-8 text; rename the file or folder\n"
    )
    (folder / name).mkdir()
    current = orchestrator(folder / name, "plan", "../job.yaml")
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
