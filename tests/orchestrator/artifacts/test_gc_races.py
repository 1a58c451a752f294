"""gc next to publishers, pins and kills: no order of their requests leaves a manifest whose blob is
missing, or a pin without its manifest."""

from __future__ import annotations

import hashlib
from typing import Any, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from orchestrator.artifact import Artifact, File, Manifest
from orchestrator.artifacts.gc import collect_garbage
from orchestrator.errors import StoreError
from orchestrator.store import Store
from orchestrator.store.blobs import files_of, missing_files, publish_with_blobs
from orchestrator.store.marks import (
    ANNOUNCED_S,
    ANNOUNCED_WORK_S,
    MARK_S,
    MARKED_WORK_S,
    await_unmarked,
)
from orchestrator.store.publish import blob_name, manifest_name
from tests.orchestrator.artifacts.stepping import Command, Memory

GRACE_S = 5000.0
LONGEST_STEP_S = min(MARK_S - MARKED_WORK_S, ANNOUNCED_S - ANNOUNCED_WORK_S)
"""A single request that takes longer, in a command that then continues, may do harm."""
BLOBS = [b"one", b"two", b"three"]
TURNS = {
    "publish": ["list blobs", "list gc", "create manifests", "delete publishing", "end"],
    "gc": [
        "write gc",
        "list publishing",
        "list manifests",
        "delete manifests",
        "delete blobs",
        "end",
    ],
    "pin": ["list gc", "read manifests", "end"],
}
"""Requests of each command before which other commands matter."""
KEYS = [digit * 64 for digit in "ab"]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _manifest(key: str, contents: list[bytes]) -> Manifest:
    files = tuple(File(path=_digest(one), sha256=_digest(one), size=len(one)) for one in contents)
    return Manifest(
        key=key,
        stage="count",
        kind="count",
        recipe={},
        params={},
        artifacts={"checkpoint": Artifact(files=files)},
        metrics=(),
        provenance={},
    )


def publish(command: Command, key: str, contents: list[bytes]) -> None:
    """Publish as a stage does: skip blobs that exist, then the manifest."""
    store = cast(Store, command)
    blobs = {_digest(content): content for content in contents}

    def upload(file: File) -> None:
        store.write(blob_name(file.sha256), blobs[file.sha256])

    manifest = _manifest(key, contents)
    for file in missing_files(store, files_of(manifest)):
        upload(file)
    publish_with_blobs(store, manifest, upload, clock=command.clock, sleep=command.sleep)


def collect(command: Command, *, has_results: bool) -> None:
    collect_garbage(
        cast(Store, command),
        grace_s=GRACE_S,
        blob_grace_s=GRACE_S,
        has_results=has_results,
        is_dry=False,
        clock=command.clock,
        num_threads=1,
    )


def pin(command: Command, key: str, pinned: set[str]) -> None:
    """Pin a result, or report that it does not exist."""
    store = cast(Store, command)
    store.write(f"pins/{key}.json", b"{}")
    await_unmarked(store, [manifest_name(key)], sleep=command.sleep)
    if store.read(manifest_name(key)) is not None:
        pinned.add(key)


PUBLISHING = st.tuples(
    st.just("publish"),
    st.sampled_from(KEYS),
    st.lists(st.sampled_from(BLOBS), min_size=1, max_size=2, unique=True),
)
COLLECTING = st.tuples(st.just("gc"), st.booleans())
PINNING = st.tuples(st.just("pin"), st.sampled_from(KEYS))
COMMANDS = {"publish": PUBLISHING, "gc": COLLECTING, "pin": PINNING}


class Races(RuleBasedStateMachine):
    """A publisher, a gc and a third command on one store with old blobs. Each rule lets one of them
    make some requests, kills it, begins another one, or lets time pass."""

    @initialize(
        results=st.lists(st.sampled_from(KEYS), unique=True),
        publishing=PUBLISHING,
        collecting=COLLECTING,
        third=PUBLISHING | COLLECTING | PINNING,
    )
    def fill(self, results: list[str], publishing: Any, collecting: Any, third: Any) -> None:
        self.memory = Memory()
        self.pinned: set[str] = set()
        for content in BLOBS:
            self.memory.contents[blob_name(_digest(content))] = content, 0.0
        for key in results:
            self.memory.contents[manifest_name(key)] = _manifest(key, BLOBS[:2]).to_json(), 0.0
        self.memory.now_s = 2 * GRACE_S
        self.commands = [self._begin(what) for what in (publishing, collecting, third)]

    def _begin(self, what: Any) -> Command:
        def act(command: Command) -> None:
            match what:
                case ("publish", key, contents):
                    publish(command, key, contents)
                case ("gc", has_results):
                    collect(command, has_results=has_results)
                case ("pin", key):
                    pin(command, key, self.pinned)

        return Command(what[0], self.memory, act)

    @precondition(lambda self: self._is_active(0))
    @rule(turn=st.integers(0, 5))
    def let_publisher_run(self, turn: int) -> None:
        self._run_up_to(0, turn)

    @precondition(lambda self: self._is_active(1))
    @rule(turn=st.integers(0, 5))
    def let_gc_run(self, turn: int) -> None:
        self._run_up_to(1, turn)

    @precondition(lambda self: self._is_active(2))
    @rule(turn=st.integers(0, 5))
    def let_third_run(self, turn: int) -> None:
        self._run_up_to(2, turn)

    def _is_active(self, slot: int) -> bool:
        return not self.commands[slot].is_over

    def _run_up_to(self, slot: int, turn: int) -> None:
        """Let a command run until it is about to make a request that matters."""
        command = self.commands[slot]
        turns = TURNS[command.name]
        for _ in range(100):  # it may wait for another command
            self._step(command)
            if command.is_over or command.next == turns[turn % len(turns)]:
                break

    def _step(self, command: Command) -> None:
        if not command.is_over:
            command.step()
            self._check()

    @rule(slot=st.integers(0, 2), what=st.sampled_from(["publish", "gc", "pin"]), data=st.data())
    def kill_and_begin_another(self, slot: int, what: str, data: st.DataObject) -> None:
        self.commands[slot].kill()
        self.commands[slot] = self._begin(data.draw(COMMANDS[what]))

    @precondition(lambda self: all(one.is_over or one.name != "gc" for one in self.commands))
    @rule()
    def wait_for_hours(self) -> None:
        self.wait(ANNOUNCED_S - 2 * ANNOUNCED_WORK_S)

    @rule(seconds=st.sampled_from([1.0, 100.0, MARKED_WORK_S, LONGEST_STEP_S - 1]))
    def wait(self, seconds: float) -> None:
        # Each command makes a request between two waits: none is paused longer than the longest.
        self.memory.now_s += seconds
        for command in self.commands:
            self._step(command)

    @invariant()
    def no_command_failed(self) -> None:
        for command in getattr(self, "commands", ()):
            if command.error is not None and not isinstance(command.error, StoreError):
                raise command.error

    @invariant()
    def _check(self) -> None:
        if not hasattr(self, "memory"):
            return
        for name, (content, _) in self.memory.contents.items():
            if name.startswith("manifests/"):
                manifest = Manifest.from_json(content, where=name)
                for file in manifest.artifacts["checkpoint"].files:
                    assert blob_name(file.sha256) in self.memory.contents, "a blob is missing"
        for key in self.pinned:
            assert manifest_name(key) in self.memory.contents, "a pinned result is missing"

    def teardown(self) -> None:
        for command in getattr(self, "commands", ()):
            command.kill()


TestRaces = Races.TestCase
TestRaces.settings = settings(max_examples=400, stateful_step_count=30)


@pytest.mark.stress
def test_many_more_orders() -> None:
    many = settings(max_examples=20_000, stateful_step_count=30, deadline=None)
    run_state_machine_as_test(Races, settings=many)
