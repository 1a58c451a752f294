"""Whole runs of small jobs on a real cluster: order, reuse, failures, kills."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import ray.util

from orchestrator.code_version import code_version
from orchestrator.errors import ClusterError, DataError, StageError
from orchestrator.plan import Verdict
from orchestrator.planning import plan_job
from orchestrator.progress import Update
from orchestrator.results import load_results
from orchestrator.run import run_plan
from orchestrator.spec import load_job
from orchestrator.store import open_store
from orchestrator.store.stage_logs import LogName, LogReader, list_logs
from tests.orchestrator.counting import KINDS
from tests.system.counting_runs import (
    JOB,
    Runner,
    counting_job,
    last_record,
    one_stage,
    totals,
    worked_epochs,
)


def _printed(tmp_path: Path, stage: str) -> dict[LogName, str]:
    """The lines of the test's own kind in each log of a stage of the last run."""
    store, run_id = open_store(str(tmp_path / "store")), last_record(tmp_path).run_id
    texts = {
        name: "".join(LogReader(store, name.folder(run_id, stage)).read())
        for name in list_logs(store, run_id, stage)
    }
    return {
        name: "".join(re.findall(r"^rank \d+ epoch .*\n", text, re.MULTILINE))
        for name, text in texts.items()
    }


def _hello(*, rank: int, epochs: int) -> str:
    return "".join(f"rank {rank} epoch {epoch}: hello\n" for epoch in range(1, epochs + 1))


def test_a_run_searches_trains_and_is_reused(run: Runner, tmp_path: Path) -> None:
    outcome, heard = run()
    assert outcome.exit_code == 0
    # The initial point; the seed would draw 8, 6 and 5.
    assert "gain 2 epoch 1" in worked_epochs(tmp_path)
    second = [line for line in worked_epochs(tmp_path) if line.endswith("epoch 2")]
    best = max(float(line.split()[1]) for line in second)
    assert totals(tmp_path)["search"] == 2 * best
    assert totals(tmp_path)["first"] == 3 * best
    assert totals(tmp_path)["second"] == 1 + 3 * best
    assert any(update.stage == "first" and update.event.text == "epoch 3/3" for update in heard)
    search = last_record(tmp_path).stages["search"]
    assert (search.newest and search.newest.done) == 3
    assert search.total == 3
    assert search.metrics == {"total": 2 * best}
    assert _printed(tmp_path, "search") == {
        LogName(f"0000{number}", 1, 0): _hello(rank=0, epochs=2) for number in (1, 2, 3)
    }
    assert _printed(tmp_path, "first") == {
        LogName(None, 1, rank): _hello(rank=rank, epochs=3) for rank in (0, 1)
    }
    assert search.workers == 3
    assert last_record(tmp_path).stages["first"].workers == 2

    worked = worked_epochs(tmp_path)
    outcome, _ = run()
    assert set(outcome.states.values()) == {"reused"}
    assert worked_epochs(tmp_path) == worked
    assert last_record(tmp_path).stages["search"].metrics == {"total": 2 * best}


def test_kill_9_of_a_worker_costs_no_committed_epoch(run: Runner, tmp_path: Path) -> None:
    text = one_stage(epochs=4, dies_after=2, says="hello", resources={"workers": 2})
    outcome, heard = run(text=text)
    assert outcome.exit_code == 0
    worked = [int(line.split()[-1]) for line in worked_epochs(tmp_path)]
    assert worked in ([1, 2, 3, 4], [1, 2, 2, 3, 4]), "the upload of epoch 2 may have been cut off"
    assert any(
        "lost worker" in update.event.text and "attempt 2 of 3" in update.event.text
        for update in heard
    )
    stage = last_record(tmp_path).stages["only"]
    (lost,) = stage.lost_attempts
    assert stage.attempt == 2
    assert lost.attempt == 1
    # The number is unknown if the other worker's broken connection is reported first.
    assert lost.why.startswith(("lost worker 1: ", "lost worker unknown: "))
    assert stage.first is not None
    assert stage.first.done >= (2 if worked == [1, 2, 3, 4] else 1)
    # Rank 1 was killed, and then Ray ended rank 0. A process that outlives them writes their rest.
    _await_printed(tmp_path, {rank: _hello(rank=rank, epochs=2) for rank in (0, 1)})


def _await_printed(tmp_path: Path, beginnings: Mapping[int, str]) -> None:
    """Wait until the log of each rank in the first attempt begins with its text."""
    deadline_s = time.monotonic() + 300
    while True:
        printed = _printed(tmp_path, "only")
        texts = {rank: printed.get(LogName(None, 1, rank), "") for rank in beginnings}
        if all(texts[rank].startswith(text) for rank, text in beginnings.items()):
            return
        assert time.monotonic() < deadline_s, texts
        time.sleep(0.2)


def test_wrong_data_fail_a_stage_at_once(run: Runner, tmp_path: Path) -> None:
    outcome, heard = run(text=one_stage(fails="wrong_data"))
    error = outcome.errors["only"]
    assert isinstance(error, DataError)
    assert str(error) == f"{tmp_path}/data/content.txt: is not to my taste"
    assert outcome.exit_code == 2
    assert not any("attempt 2" in update.event.text for update in heard)


def test_a_bug_blocks_only_the_dependants_of_its_stage(run: Runner, tmp_path: Path) -> None:
    job = json.loads(one_stage(fails="bug"))
    job["stages"]["next"] = {"kind": "count", "data": "data", "source": "only.count"}
    job["stages"]["other"] = {"kind": "count", "data": "data", "gain": 7.0, "epochs": 1}
    outcome, _ = run(text=json.dumps(job))
    assert outcome.states == {"only": "failed", "next": "blocked", "other": "done"}
    assert isinstance(outcome.errors["only"], StageError)
    assert "ZeroDivisionError: a bug" in str(outcome.errors["only"])
    assert outcome.exit_code == 1
    assert totals(tmp_path) == {"other": 7.0}


def test_only_runs_a_stage_and_its_dependencies(run: Runner, tmp_path: Path) -> None:
    job = json.loads(one_stage(epochs=1))
    job["stages"]["next"] = {"kind": "count", "data": "data", "source": "only.count", "epochs": 1}
    job["stages"]["other"] = {"kind": "count", "data": "data", "gain": 7.0}
    outcome, _ = run(text=json.dumps(job), only=("next",))
    assert outcome.states == {"only": "done", "next": "done"}


def test_impossible_resources_are_refused_at_once(run: Runner) -> None:
    expected = (
        r"only: needs 64 workers with 1 CPU each, but the cluster has 4 CPUs, 2 GPUs, "
        r".* GiB, where 4 of them fit"
    )
    with pytest.raises(ClusterError, match=expected):
        run(text=one_stage(resources={"workers": 64}))


def test_a_run_writes_its_events_and_record_to_the_store(
    tmp_path: Path, cluster_address: str
) -> None:
    """The actor's name contains the run ID, so two runs on one cluster never share an actor."""
    job = counting_job(tmp_path, one_stage(epochs=2))
    store = open_store(job.store)
    actors: list[dict[str, str]] = []

    def watch(update: Update) -> None:
        if update.event.text.startswith("epoch"):
            actors.extend(ray.util.list_named_actors(all_namespaces=True))

    run_plan(plan_job(job, store), store, address=cluster_address, watch=watch)
    assert {"name": f"events-{last_record(tmp_path).run_id}", "namespace": "orchestrator"} in actors
    (record,) = (tmp_path / "store" / "runs").glob("*/run.json")
    assert json.loads(record.read_text())["stages"]["only"]["state"] == "done"
    lines = "".join(
        path.read_text() for path in sorted(record.parent.glob("events/*.jsonl"))
    ).splitlines()
    texts = [json.loads(line)["event"]["text"] for line in lines]
    assert texts[0].startswith("running: ")
    assert "epoch 2/2" in texts
    assert texts[-1] == "done: total 2.00"
    (manifest,) = load_results(job, store, kinds=KINDS).manifests.values()
    assert manifest.provenance["code"] == code_version().model_dump(mode="json")
    assert manifest.provenance["runs"] == [last_record(tmp_path).run_id]


EVALUATED = """
name: evaluated
store: ./store
stages:
  search: {kind: tune, of: first, space: {gain: {choice: [2.0]}}, num_trials: 1,
    overrides: {epochs: 1}}
  first: {kind: count, data: data, params_from: search.best_params, epochs: 3}
  measured: {kind: evaluate, of: first, overrides: {epochs: 9}, resources: {workers: 2}}
  outside: {kind: evaluate, task: count, data: data, checkpoint: ./count.json}
"""


def test_an_evaluation_measures_a_model_and_is_reused(run: Runner, tmp_path: Path) -> None:
    (tmp_path / "count.json").write_text("40")
    outcome, heard = run(text=EVALUATED)
    assert outcome.errors == {}
    assert totals(tmp_path) == {
        "search": 2.0,
        "first": 6.0,
        "measured": 10 * 2.0 * 6.0,
        "outside": 400.0,
    }
    assert any(
        update.stage == "measured" and update.event.text == "counting again" for update in heard
    )

    job = load_job(tmp_path / "job.yaml", kinds=KINDS, base_dir=tmp_path)
    manifest = load_results(job, open_store(job.store), kinds=KINDS).manifests["measured"]
    assert manifest.kind == "evaluate"
    assert manifest.recipe["measures"] == {"kind": "count", "version": 1}
    assert manifest.params["gain"] == 2.0
    assert manifest.params["epochs"] == 9
    assert manifest.outputs == {}
    assert manifest.metrics[0].num_samples == 2
    assert manifest.provenance["device"]
    assert set(run(text=EVALUATED)[0].states.values()) == {"reused"}


def _outside(tmp_path: Path, bucket: str, kind: str) -> str:
    """A file with the count 40, outside the job."""
    file = tmp_path / "count.json"
    file.write_text("40")
    if kind == "file":
        return str(file)
    open_store(f"s3://{bucket}/old").upload("count.json", file)
    return f"s3://{bucket}/old/count.json"


@pytest.mark.parametrize("kind", ["file", "s3"])
def test_an_outside_file_is_identified_by_its_bytes(
    run: Runner, tmp_path: Path, bucket: str, kind: str
) -> None:
    text = one_stage(epochs=2, source=_outside(tmp_path, bucket, kind))
    run(text=text)
    assert totals(tmp_path) == {"only": 42.0}
    digest = hashlib.sha256(b"40").hexdigest()
    assert (tmp_path / "store" / "blobs" / "sha256" / digest[:2] / digest).read_text() == "40"
    assert run(text=text)[0].states == {"only": "reused"}

    moved = tmp_path / "moved" / "count.json"
    moved.parent.mkdir()
    moved.write_text("40")
    job = counting_job(tmp_path, one_stage(epochs=2, source=str(moved)))
    (planned,) = plan_job(job, open_store(job.store)).stages
    assert planned.verdict is Verdict.REUSE
    moved.write_text("50")
    (planned,) = plan_job(job, open_store(job.store)).stages
    assert planned.verdict == Verdict.RUN
    assert planned.why == "its input source changed"


def test_a_missing_outside_file_is_named_in_the_error(
    run: Runner, tmp_path: Path, bucket: str
) -> None:
    with pytest.raises(
        DataError,
        match=rf"stages\.only: {tmp_path}/none\.pth: the file cannot be read: No such file",
    ):
        run(text=one_stage(source=str(tmp_path / "none.pth")))
    (tmp_path / "folder.pth").mkdir()
    with pytest.raises(
        DataError, match=rf"stages\.only: {tmp_path}/folder\.pth: is a folder; name a file in it"
    ):
        run(text=one_stage(source=str(tmp_path / "folder.pth")))
    with pytest.raises(DataError, match=rf"stages\.only: s3://{bucket}/none\.pth: no such object"):
        run(text=one_stage(source=f"s3://{bucket}/none.pth"))


def test_a_run_with_an_s3_store_writes_no_local_store(
    run: Runner, tmp_path: Path, bucket: str
) -> None:
    text = JOB.replace("./store", f"s3://{bucket}/jobs").replace(
        "resources: {workers: 2}", "resources: {workers: 1}"
    )
    outcome, _ = run(text=text)
    assert outcome.exit_code == 0
    assert totals(tmp_path)["second"] == 1 + totals(tmp_path)["first"]
    assert not (tmp_path / "store").exists()
    assert set(run(text=text)[0].states.values()) == {"reused"}


def test_two_stages_run_at_the_same_time_on_two_gpus(run: Runner) -> None:
    resources = {"gpus_per_worker": 1, "backend": "gloo", "labels": {"place": "here"}}
    stage = {"kind": "count", "data": "data", "epochs": 2, "resources": resources}
    stages = {"one": stage, "other": {**stage, "gain": 2.0}, "third": {**stage, "gain": 3.0}}
    outcome, heard = run(text=json.dumps({"name": "pair", "store": "./store", "stages": stages}))
    assert outcome.exit_code == 0
    states = [(update.stage, str(update.state)) for update in heard]
    first_done = min(states.index((name, "done")) for name in stages)
    assert {name for name, state in states[:first_done] if state == "running"} == {"one", "other"}


def test_a_stage_waits_for_room_until_its_deadline(
    run: Runner, occupied: subprocess.Popen[str], tmp_path: Path
) -> None:
    outcome, heard = run(text=one_stage(epochs=1, resources={"max_wait_min": 0.05}))
    assert outcome.exit_code == 3
    assert str(outcome.errors["only"]).startswith(
        "waited 0.05 minutes for resources: needs 1 worker with 1 CPU, but the cluster has 0 CPUs, "
    )
    assert any(update.event.text.startswith("waiting for resources: ") for update in heard)
    events = "".join(path.read_text() for path in tmp_path.glob("store/runs/*/events/*"))
    waits = [json.loads(line)["waits_for"] for line in events.splitlines()]
    assert any(wait.startswith("needs 1 worker with 1 CPU") for wait in waits if wait)


def test_a_stage_starts_when_room_becomes_free(
    run: Runner, occupied: subprocess.Popen[str]
) -> None:
    threading.Timer(3, occupied.terminate).start()
    outcome, _ = run(text=one_stage(epochs=1))
    assert outcome.exit_code == 0


def test_stated_data_are_checked_only_by_workers(run: Runner, tmp_path: Path) -> None:
    digest = hashlib.sha256(b"content").hexdigest()
    assert run(text=one_stage(epochs=1))[0].states == {"only": "done"}
    assert run(text=one_stage(epochs=1, data_fingerprint=digest))[0].states == {"only": "reused"}
    (tmp_path / "data" / "content.txt").unlink()
    assert run(text=one_stage(epochs=1, data_fingerprint=digest))[0].states == {"only": "reused"}

    (tmp_path / "data" / "content.txt").write_text("other")
    outcome, _ = run(text=one_stage(epochs=2, data_fingerprint=digest))
    assert outcome.exit_code == 2
    assert f"stages.only.data_fingerprint is {digest}, but the data on " in str(
        outcome.errors["only"]
    )


def test_the_record_contains_the_error_of_a_failed_run(run: Runner, tmp_path: Path) -> None:
    with pytest.raises(ClusterError) as caught:
        run(text=one_stage(resources={"workers": 64}))
    record = last_record(tmp_path)
    assert record.state == "failed"
    assert record.error == str(caught.value)
