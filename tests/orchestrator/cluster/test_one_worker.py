"""A stage with one worker in its own Ray actor: what it computes, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.util

from orchestrator.artifact import Manifest
from orchestrator.cluster import one_worker
from orchestrator.cluster.attempt import Attempt
from orchestrator.cluster.connection import connected
from orchestrator.cluster.events import EventChannel
from orchestrator.cluster.failures import MAX_ATTEMPTS, Retry, decide_retry
from orchestrator.cluster.one_worker import _cause, _loss_of
from orchestrator.cluster.placement import Room
from orchestrator.cluster.stage import make_attempt
from orchestrator.contract import Kind
from orchestrator.errors import StageError, StoppedError
from orchestrator.fleet import Placement
from orchestrator.planning import plan_job
from orchestrator.progress import Update, Watcher
from orchestrator.run import Outcome, run_plan
from orchestrator.spec import load_job
from orchestrator.store import open_store
from orchestrator.store.publish import load_manifest
from orchestrator.store.training import Training
from pipelines import KINDS
from pipelines.sample.folder import Size, write_sample
from tests.orchestrator import counting

Run = Callable[..., tuple[Outcome, list[str]]]
NETWORK = {"embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8], "img_size": 56}
TRAINED = {
    "pretrain": {
        "kind": "pretrain",
        "data": "digits/imagenet",
        "model": NETWORK,
        "epochs": 2,
        "warmup_epochs": 1,
        "batch_size": 10,
        "drop_path_rate": 0.1,
        "loader_workers": 1,
    },
    "segmentation": {
        "kind": "segmentation",
        "method": "semantic_fpn",
        "init": "scratch",
        "model": NETWORK,
        "data": "digits/ade20k",
        "max_iters": 3,
        "warmup_iters": 1,
        "batch_size": 2,
        "img_scale": [64, 64],
        "crop_size": 64,
        "channels": 8,
        "head_channels": 8,
        "loader_workers": 0,
        "val_every": 3,
    },
}


@pytest.fixture
def run(tmp_path: Path, cluster_address: str) -> Run:
    """Run a job with the given stages. Returns the outcome and the texts of its events."""

    def run_job(
        stages: Mapping[str, Any],
        *,
        store: str = "store",
        kinds: Mapping[str, Kind] = KINDS,
        watch: Watcher = lambda _: None,
    ) -> tuple[Outcome, list[str]]:
        (tmp_path / "job.yaml").write_text(
            json.dumps({"name": "single", "store": f"./{store}", "stages": stages})
        )
        job = load_job(tmp_path / "job.yaml", kinds=kinds, base_dir=tmp_path)
        texts: list[str] = []

        def hear(update: Update) -> None:
            texts.append(update.event.text)
            watch(update)

        opened = open_store(job.store)
        return run_plan(plan_job(job, opened), opened, address=cluster_address, watch=hear), texts

    return run_job


def _manifest(tmp_path: Path, store: str) -> Manifest:
    (path,) = (tmp_path / store / "manifests").iterdir()
    manifest = load_manifest(open_store(str(tmp_path / store)), path.stem)
    assert manifest is not None
    return manifest


@pytest.mark.parametrize(
    "kind", ["pretrain", pytest.param("segmentation", marks=pytest.mark.stress)]
)
def test_one_actor_trains_bit_for_bit_like_a_group_of_one(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    write_sample(tmp_path / "digits", Size(train_scenes=4, val_scenes=2, scans_per_class=5))
    assert run(store="of_one", stages={"only": TRAINED[kind]})[0].errors == {}
    with monkeypatch.context() as patch:
        patch.setattr(Attempt, "needs_group", True)
        assert run(store="of_group", stages={"only": TRAINED[kind]})[0].errors == {}
    one, group = _manifest(tmp_path, "of_one"), _manifest(tmp_path, "of_group")
    assert one.artifacts["checkpoint"] == group.artifacts["checkpoint"]
    (score, *_), (same, *_) = one.metrics, group.metrics
    assert score == same
    assert one.provenance["num_threads"] == group.provenance["num_threads"]


@pytest.fixture
def count(run: Run, tmp_path: Path) -> Run:
    """Run a job with stages of the kind `count`, which have their own data."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "content.txt").write_text("content")

    def run_counting(
        *, watch: Watcher = lambda _: None, **stages: Any
    ) -> tuple[Outcome, list[str]]:
        counting_stages = {
            name: {"kind": "count", "data": "data", **fields} for name, fields in stages.items()
        }
        return run(counting_stages, kinds=counting.KINDS, watch=watch)

    return run_counting


def test_killed_worker_resumes_from_its_last_checkpoint(count: Run, tmp_path: Path) -> None:
    outcome, texts = count(only={"epochs": 4, "dies_after": 2})
    assert outcome.errors == {}
    (lost,) = (text for text in texts if text.startswith("lost worker"))
    assert lost.startswith("lost worker 0: its process (")
    assert lost.endswith("was killed or crashed, perhaps because memory ran out; attempt 2 of 3")
    worked = [
        int(line.split()[-1])
        for line in (tmp_path / "data" / "worked.log").read_text().splitlines()
    ]
    assert worked in ([1, 2, 3, 4], [1, 2, 2, 3, 4]), "the upload of epoch 2 may have been cut off"


def test_worker_that_is_always_killed_fails_its_stage(count: Run) -> None:
    outcome, _ = count(only={"epochs": 9, "num_deaths": 9})
    assert isinstance(outcome.errors["only"], StageError)
    expected = "lost workers in each of 3 attempts, the last time: worker 0: its process ("
    assert str(outcome.errors["only"]).startswith(expected)


def test_ended_worker_leaves_no_actor_and_no_resources(count: Run) -> None:
    found: list[str] = []

    def look(_: Update) -> None:
        found.extend(actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True))

    whole = {"resources": {"cpus_per_worker": 4}}
    outcome, _ = count(first={**whole, "fails": "bug"}, second=whole, watch=look)
    assert outcome.states == {"first": "failed", "second": "done"}
    seconds = [number for number, name in enumerate(found) if name.startswith("single.second")]
    assert not any(name.startswith("single.first") for name in found[seconds[0] :])


def test_worker_without_resources_is_not_a_lost_attempt(
    count: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others take the resources between the check and the start of the worker."""
    take = Room.take
    holders: list[Any] = []

    def take_in_vain(room: Room, attempt: Attempt) -> Placement:
        if attempt.number == 2:
            ray.kill(holders[0])
            monkeypatch.setattr(one_worker, "START_TIMEOUT_S", 300.0)
        placement = take(room, attempt)
        if attempt.number == 1:
            holders.append(ray.remote(Holder).options(num_cpus=4).remote())
            ray.get(holders[0].hold.remote())
            monkeypatch.setattr(one_worker, "START_TIMEOUT_S", 2.0)
        return placement

    monkeypatch.setattr(Room, "take", take_in_vain)
    outcome, texts = count(only={})
    assert outcome.errors == {}
    assert "other users took the resources for the workers; attempt 2 of 4" in texts


@pytest.fixture
def too_large(tmp_path: Path) -> Attempt:
    """An attempt whose worker needs one more CPU than the cluster has."""
    (tmp_path / "content.txt").write_text("content")
    stage = {"kind": "count", "data": ".", "resources": {"cpus_per_worker": 5}}
    (tmp_path / "job.yaml").write_text(
        json.dumps({"name": "single", "store": "./store", "stages": {"only": stage}})
    )
    job = load_job(tmp_path / "job.yaml", kinds=counting.KINDS, base_dir=tmp_path)
    store = open_store(job.store)
    plan = plan_job(job, store)
    training = Training("train/key", 1)
    return make_attempt(plan, plan.stages[0], store, training, {"job": "single", "run_id": "now"})


def test_worker_without_resources_ends_when_asked_to_stop(
    too_large: Attempt, cluster_address: str
) -> None:
    with connected(cluster_address):
        channel = EventChannel("now")
        channel.request_stop("only")
        with pytest.raises(StoppedError, match=r"^stopped before the worker had started$"):
            one_worker.run(too_large, channel)


class Holder:
    def hold(self) -> None:
        """Return once the actor has its CPUs."""


DIED = (
    "The actor died unexpectedly before finishing this task.\n\tpid: 7\n\tip: 10.0.0.2\nThe "
    "actor is dead because "
)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (
            "its worker process has died. Worker exit type: SYSTEM_ERROR",
            "its process (7 on 10.0.0.2) was killed",
        ),
        (
            "its worker process has died. Worker exit type: NODE_OUT_OF_MEMORY",
            "machine 10.0.0.2 ran low on memory",
        ),
        ("its node has died. Node Id: 5", "its machine 10.0.0.2 is lost"),
    ],
)
def test_cause_of_a_loss_is_one_line(text: str, cause: str) -> None:
    assert _cause(DIED + text).startswith(cause)
    assert "\n" not in _cause(DIED + text)
    assert _cause("The actor died.\n\tno fact").startswith("its process (unknown on unknown)")


def test_worker_on_a_leaving_machine_moves_and_names_it() -> None:
    error = ray.exceptions.RayActorError(
        error_msg=f"{DIED}its node has died. Node Id: 5", preempted=True
    )
    decision = decide_retry(_loss_of(error), num_lost=MAX_ATTEMPTS - 1)
    assert decision == Retry("its machine 10.0.0.2 is lost", is_move=True)
