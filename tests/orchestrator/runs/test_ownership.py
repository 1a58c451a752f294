"""Which stages a run owns, as two runs on one store see it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.contract import Event
from orchestrator.errors import StoreError
from orchestrator.runs.ownership import OwnedStages
from orchestrator.runs.record import RunRecord, StageEvent, StageRecord, record_name
from orchestrator.schedule import State
from orchestrator.store import Store, open_store
from orchestrator.store.lease import LEASE_S, lease_name
from orchestrator.store.marks import mark
from orchestrator.store.publish import publish_manifest
from tests.orchestrator.manifests import bare_manifest

KEY = "b" * 64


class Time:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class AgedStore:
    """A store whose entries are older than they are."""

    def __init__(self, store: Store) -> None:
        self._store, self.extra_s = store, 0.0

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def entries(self, prefix: str) -> object:
        for entry in self._store.entries(prefix):
            yield entry._replace(age_s=entry.age_s + self.extra_s)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def stages_of(store: object, run_id: str, clock: Time | None = None) -> OwnedStages:
    return OwnedStages(store, run_id, "job", clock=clock or Time())  # type: ignore[arg-type]


def _await(is_so: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def _written_at(store: Store) -> int:
    return Path(store.uri, lease_name(KEY, 1)).stat().st_mtime_ns


def test_only_one_run_owns_a_stage_until_it_releases_it(store: Store) -> None:
    first, second = stages_of(store, "first"), stages_of(store, "second")
    assert first.take("train", KEY) is True
    assert second.take("train", KEY) is False
    first.release("train")
    assert second.take("train", KEY) is True
    assert (first.take("train", KEY), second.token_of("train")) == (False, 2)


def test_the_other_run_is_shown_with_its_progress(store: Store) -> None:
    row = StageRecord(kind="count", key=KEY).entering(State.RUNNING, Event(""), time_s=0)
    row = row.hearing(StageEvent("train", 1, 1.0, Event("epoch 17/50", done=17, total=50)))
    record = RunRecord(run_id="first", job="job", began_at_s=0, heard_at_s=0, stages={"train": row})
    stages_of(store, "first").take("train", KEY)
    store.write(record_name("first"), record.model_dump_json().encode())
    second = stages_of(store, "second")
    second.take("train", KEY)
    text = r"running elsewhere \(run first on host \S+, 34%, since \d\d:\d\d\)"
    assert re.fullmatch(text, second.elsewhere["train"])


def test_news_about_another_run_comes_once_a_minute(store: Store) -> None:
    clock = Time()
    stages = stages_of(store, "second", clock)
    stages.elsewhere["train"] = "running elsewhere (34%)"
    assert stages.news("train") == "running elsewhere (34%)"
    assert stages.news("train") is None
    stages.elsewhere["train"] = "running elsewhere (35%)"
    clock.now_s = 59.0
    assert stages.news("train") is None
    clock.now_s = 60.0
    assert stages.news("train") == "running elsewhere (35%)"


def test_a_finished_stage_is_returned_instead_of_taken(store: Store) -> None:
    first, second = stages_of(store, "first"), stages_of(store, "second")
    first.take("train", KEY)
    assert second.take("train", KEY) is False
    publish_manifest(store, bare_manifest(KEY, "first"))
    assert second.take("train", KEY) == bare_manifest(KEY, "first")
    assert second.elsewhere == {}
    first.release("train")
    assert stages_of(store, "third").take("train", KEY) == bare_manifest(KEY, "first")


def test_the_same_work_under_two_names_is_done_once(store: Store) -> None:
    stages = stages_of(store, "first")
    assert stages.take("train", KEY) is True
    assert stages.take("copy", KEY) is False
    assert stages.elsewhere == {"copy": "train of this run does the same work"}
    assert stages.is_by_this_run(KEY)


def test_an_expired_lease_is_taken_after_the_time_of_one_more_renewal(store: Store) -> None:
    """An outage of the store may have kept its owner from renewing it."""
    aged, clock = AgedStore(store), Time()
    stages_of(store, "first").take("train", KEY)
    second = stages_of(aged, "second", clock)
    assert second.take("train", KEY) is False
    aged.extra_s = LEASE_S + 1
    assert second.take("train", KEY) is False
    clock.now_s = second.renewal_s - 0.1
    assert second.take("train", KEY) is False
    clock.now_s = second.renewal_s
    assert second.take("train", KEY) is True


def test_a_renewal_in_time_keeps_the_stage(store: Store) -> None:
    aged, clock = AgedStore(store), Time()
    stages_of(store, "first").take("train", KEY)
    second = stages_of(aged, "second", clock)
    aged.extra_s = LEASE_S + 1
    second.take("train", KEY)
    aged.extra_s, clock.now_s = 0.0, 1e6
    assert second.take("train", KEY) is False
    aged.extra_s = LEASE_S + 1
    assert second.take("train", KEY) is False


def test_a_stage_elsewhere_is_looked_at_again_after_a_while(store: Store) -> None:
    clock = Time()
    stages_of(store, "first").take("train", KEY)
    second = stages_of(store, "second", clock)
    assert second.is_due("train")
    second.take("train", KEY)
    assert not second.is_due("train")
    clock.now_s = 10.0
    assert second.is_due("train")


def test_leases_are_renewed_and_a_lost_one_is_noticed(store: Store) -> None:
    owned = OwnedStages(store, "first", "job", duration_s=0.3)
    with owned:
        owned.take("train", KEY)
        before = _written_at(store)
        _await(lambda: _written_at(store) > before)
        store.write(lease_name(KEY, 2), store.read(lease_name(KEY, 1)) or b"")
        _await(lambda: owned.lost == {"train"})
    assert b"released" not in (store.read(lease_name(KEY, 2)) or b"")


def test_all_leases_are_released_at_the_end(store: Store) -> None:
    with stages_of(store, "first") as first:
        first.take("train", KEY)
    assert stages_of(store, "second").take("train", KEY) is True


def test_an_unreachable_store_does_not_end_the_renewals(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    owned = OwnedStages(store, "first", "job", duration_s=0.3)
    with owned:
        owned.take("train", KEY)
        with monkeypatch.context() as patch:
            failures: list[str] = []

            def fail(prefix: str) -> None:
                failures.append(prefix)
                raise StoreError("away")

            patch.setattr(store, "entries", fail)
            _await(lambda: len(failures) > 1)
        before = _written_at(store)
        _await(lambda: _written_at(store) > before)
    assert owned.lost == set()


def test_a_lost_stage_that_a_run_gets_back_is_its_own_again(store: Store) -> None:
    """A renewal of the old lease may still be under way when the stage is taken again."""
    first = stages_of(store, "first")
    with first:
        first.take("train", KEY)
        second = stages_of(store, "second")
        store.write(lease_name(KEY, 2), store.read(lease_name(KEY, 1)) or b"")
        assert first.has_lost("train")
        old = first._held()["train"]
        first.release("train")
        store.delete(lease_name(KEY, 2))
        assert first.take("train", KEY) is True
        first._lost.add(old)  # as the thread of the renewals does late
        assert first.lost == frozenset()
    assert second.take("train", KEY) is True


def test_a_lease_whose_answer_was_lost_is_taken_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages, create = stages_of(store, "first"), store.create

    def create_without_answer(name: str, content: bytes) -> bool:
        create(name, content)
        raise StoreError("the answer was lost")

    with monkeypatch.context() as patch:
        patch.setattr(store, "create", create_without_answer)
        with pytest.raises(StoreError):
            stages.take("train", KEY)
    assert stages.take("train", KEY) is True
    assert stages.token_of("train") == 2


def test_a_store_that_fails_after_the_lease_leaves_it_to_others(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str) -> bytes:
        raise StoreError("away")

    first = stages_of(store, "first")
    with monkeypatch.context() as patch:
        patch.setattr(store, "read", fail)
        with pytest.raises(StoreError):
            first.take("train", KEY)
    assert stages_of(store, "second").take("train", KEY) is True


def test_a_stage_whose_old_files_gc_deletes_waits(store: Store) -> None:
    stages = stages_of(store, "first")
    name = mark(store, [f"train/{KEY}"])
    assert stages.take("train", KEY) is False
    assert stages.elsewhere == {"train": "`artifacts gc` deletes old files of it"}
    store.delete(name)
    assert stages.take("train", KEY) is True
