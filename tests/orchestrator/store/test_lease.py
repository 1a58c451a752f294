"""Leases: one owner at a time, and tokens that grow."""

from __future__ import annotations

import errno
import multiprocessing
import os
import subprocess
import sys
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import NoReturn

import pytest

from orchestrator import process
from orchestrator.errors import LeaseLostError
from orchestrator.process import Process
from orchestrator.store import Store, open_store
from orchestrator.store.lease import (
    Lease,
    Ownership,
    check_owner,
    find_owner,
    lease_name,
    release_lease,
    renew_lease,
    take_lease,
)
from tests.orchestrator.leases import bare_lease

KEY = "a" * 64


@pytest.fixture
def store(store_uri: str) -> Store:
    return open_store(store_uri)


def lease(token: int, run_id: str = "run", **fields: object) -> Lease:
    return bare_lease(KEY, token, run_id, **fields)


def test_a_stage_without_a_lease_has_no_owner(store: Store) -> None:
    assert find_owner(store, KEY) is None
    check_owner(store, KEY, token=1)


def test_the_newest_token_owns_the_stage(store: Store) -> None:
    assert take_lease(store, lease(1, "first"))
    assert take_lease(store, lease(2, "second"))
    owner = find_owner(store, KEY)
    assert owner is not None
    assert owner.lease is not None
    assert (owner.token, owner.lease.run_id, owner.is_over) == (2, "second", False)
    assert not take_lease(store, lease(2, "third"))
    assert store.names(f"leases/{KEY}") == [lease_name(KEY, 2)]


def test_a_create_whose_answer_was_lost_still_counts(store: Store) -> None:
    assert take_lease(store, lease(1))
    assert take_lease(store, lease(1))


def test_an_owner_that_lost_its_lease_learns_who_has_it(store: Store) -> None:
    first = lease(1, "first")
    take_lease(store, first)
    renew_lease(store, first)
    take_lease(store, lease(2, "second"))
    with pytest.raises(LeaseLostError, match=r"^run second on node-1 has taken over this stage"):
        renew_lease(store, first)
    check_owner(store, KEY, token=2)


def test_of_two_owners_with_one_token_the_later_stays(store: Store) -> None:
    """Where create is not exclusive, a run that is paused within it may replace another's lease."""
    first, second = lease(1, "first"), lease(1, "second")
    take_lease(store, first)
    store.write(lease_name(KEY, 1), second.model_dump_json().encode())
    renew_lease(store, second)
    with pytest.raises(LeaseLostError, match=r"^run second on node-1 has taken over this stage"):
        renew_lease(store, first)


def test_a_released_lease_is_over(store: Store) -> None:
    taken = lease(1)
    take_lease(store, taken)
    release_lease(store, taken)
    owner = find_owner(store, KEY)
    assert owner is not None
    assert (owner.token, owner.is_over) == (1, True)


def test_a_lease_of_a_killed_process_of_this_machine_is_over(store: Store) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    owner_process = Process.of(child.pid)
    assert owner_process is not None
    take_lease(store, lease(1, process=owner_process))
    owner = find_owner(store, KEY)
    assert owner is not None
    assert not owner.is_over
    child.kill()
    # Not waited for yet: a zombie has ended, too.
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert owner.is_over
    child.communicate()
    assert owner.is_over


def test_a_process_of_another_machine_may_still_run() -> None:
    elsewhere = Process.current()._replace(machine="another boot")
    assert not elsewhere._replace(pid=2**22 + 1).has_ended()
    assert Process.current()._replace(began="1").has_ended()


def test_a_process_that_proc_hides_may_still_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """With `hidepid`, /proc shows only one's own processes."""
    monkeypatch.setattr(process, "_began", lambda pid: None)
    assert not Process.current().has_ended()
    assert not Process.current()._replace(pid=1).has_ended()
    assert Process.current()._replace(pid=2**22 + 1).has_ended()


@pytest.mark.parametrize(("age_s", "is_expired"), [(59.0, False), (61.0, True)])
def test_a_lease_expires_by_the_clock_of_the_store(age_s: float, is_expired: bool) -> None:
    assert Ownership(1, lease(1, duration_s=60), age_s).is_expired is is_expired
    assert Ownership(1, None, age_s).is_expired is is_expired


def test_a_damaged_lease_still_counts_until_it_expires(store: Store) -> None:
    store.write(lease_name(KEY, 3), b"{")
    owner = find_owner(store, KEY)
    assert owner is not None
    assert (owner.token, owner.lease, owner.is_over, owner.is_expired) == (3, None, False, False)
    with pytest.raises(LeaseLostError, match=r"^a run has taken over"):
        check_owner(store, KEY, token=2)


def _race(uri: str, start: Barrier, wins: multiprocessing.SimpleQueue[int]) -> None:
    store = open_store(uri)
    for round_ in range(20):
        mine = bare_lease(f"{round_:064d}", 1, f"run {os.getpid()}")
        start.wait()
        if take_lease(store, mine):
            wins.put(round_)


def _assert_one_wins(uri: str) -> None:
    """Let 16 processes race for 20 leases."""
    context = multiprocessing.get_context("fork")
    start, wins = context.Barrier(16), context.SimpleQueue()
    racers = [context.Process(target=_race, args=(uri, start, wins)) for _ in range(16)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert [racer.exitcode for racer in racers] == [0] * 16
    assert [wins.get() for _ in range(20)] == list(range(20))
    assert wins.empty()


@pytest.mark.usefixtures("for_several_runs")
def test_one_of_16_processes_wins_each_race_for_a_lease(store: Store) -> None:
    _assert_one_wins(store.uri)


def _refuse_link(*_: object, **__: object) -> NoReturn:
    raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


def test_one_of_16_processes_wins_on_a_file_system_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", _refuse_link)
    _assert_one_wins(str(tmp_path))


def test_owners_follow_each_other_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", _refuse_link)
    store = open_store(str(tmp_path))
    first, second = lease(1, "first"), lease(2, "second")
    assert take_lease(store, first)
    renew_lease(store, first)
    release_lease(store, first)
    assert take_lease(store, second)
    assert not take_lease(store, lease(2, "third"))
    owner = find_owner(store, KEY)
    assert owner is not None
    assert owner.lease == second
    assert store.names(f"leases/{KEY}") == [lease_name(KEY, 2)]
