"""The verb artifacts verify: check that a store has what was published, and repair it."""

from __future__ import annotations

import os
import shlex
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

from pydantic import JsonValue

from orchestrator.artifacts.listing import stored_keys
from orchestrator.artifacts.repair import OtherStore, Source, ThisMachine, repair, repair_manifests
from orchestrator.artifacts.verify import Checked, Fault, verify
from orchestrator.cli.artifacts.bundle import add_bundle_options, is_bundle, verify_bundle
from orchestrator.cli.artifacts.chosen import SHORT_KEY, add_verb, choose, chosen_store
from orchestrator.cli.console import print_json
from orchestrator.cli.job import store_at
from orchestrator.cli.options import Parsers
from orchestrator.errors import Fault as WrongOption
from orchestrator.errors import IntegrityError, SpecError
from orchestrator.numbers import count_text, size_text
from orchestrator.store import Store
from orchestrator.store.input_cache import input_cache


class Subject(NamedTuple):
    """What is verified."""

    store: Store
    keys: Callable[[], Iterable[str]]
    stages: Mapping[str, str]
    """The stages of the job, by Key. Empty if the whole store is verified."""
    job_file: Path | None


@dataclass(frozen=True)
class Found:
    """A fault, and what was done about it."""

    fault: Fault
    repaired_from: str | None
    command: str
    """What makes the bytes again."""

    def to_json(self) -> JsonValue:
        return {
            **self.fault.to_json(),
            "repaired_from": self.repaired_from,
            "command": self.command,
        }


def add(parsers: Parsers, *, has_key: bool) -> None:
    text = "check that a store still has what was published"
    verb = add_verb(parsers, "verify", text, has_key=has_key, needs_job=False)
    verb.add_argument("--deep", action="store_true", help="read all bytes and hash them again")
    verb.add_argument(
        "--repair", action="store_true", help="write damaged files again from another copy"
    )
    verb.add_argument(
        "--from",
        dest="sources",
        metavar="URI",
        action="append",
        default=[],
        help="another store that has copies, for --repair; may be repeated",
    )
    add_bundle_options(verb)


def run(arguments: Namespace, stdout: IO[str]) -> int:
    if is_bundle(arguments):
        return verify_bundle(arguments, stdout)
    if arguments.sources and not arguments.repair:
        raise SpecError([WrongOption("--from", None, None, "", "needs --repair")])
    subject = _subject(arguments)
    sources = _sources(arguments)
    tally = Tally(is_deep=arguments.deep)
    if arguments.repair:
        repaired = repair_manifests(subject.store, subject.keys, sources)
        found = [Found(fault, uri, command_for(fault, subject)) for fault, uri in repaired.items()]
        tally.add_found(found)
        _print_lines(arguments, stdout, (line for one in found for line in _lines_of(one)))
    for checked, found in verified(subject, sources, is_deep=arguments.deep):
        tally.add(checked, found)
        _print_lines(arguments, stdout, lines_of(checked, found, subject))
    _print_lines(arguments, stdout, [tally.summary()])
    if arguments.json:
        print_json(stdout, {"schema": 1, "store": subject.store.uri, **tally.to_json()})
    return IntegrityError.exit_code if tally.num_left else 0


def _sources(arguments: Namespace) -> list[Source]:
    """Where `--repair` looks for copies, nearest first."""
    if not arguments.repair:
        return []
    others = [OtherStore(store_at(uri)) for uri in arguments.sources]
    return [ThisMachine(input_cache(os.environ)), *others]


def _print_lines(arguments: Namespace, stream: IO[str], lines: Iterable[str]) -> None:
    for line in lines if not arguments.json else ():
        print(line, file=stream)


def verified(
    subject: Subject, sources: Sequence[Source] = (), *, is_deep: bool
) -> Iterator[tuple[Checked, list[Found]]]:
    """Verify `subject` and repair from `sources`. Yields each stage with its faults."""
    repaired: dict[str, str | None] = {}
    for checked in verify(subject.store, subject.keys(), is_deep=is_deep):
        for fault in checked.faults:
            if fault.name not in repaired:  # several stages may have published the same bytes
                repaired[fault.name] = repair(subject.store, fault, sources)
        yield (
            checked,
            [
                Found(fault, repaired[fault.name], command_for(fault, subject))
                for fault in checked.faults
            ],
        )


def _subject(arguments: Namespace) -> Subject:
    if arguments.job is None and arguments.key is None:
        store = chosen_store(arguments, "artifacts verify without JOB")
        return Subject(store, lambda: stored_keys(store), {}, None)
    chosen = choose(arguments)
    stages = {key: stage for stage, key in chosen.keys.items()}
    return Subject(chosen.store, chosen.keys.values, stages, arguments.job)


def command_for(fault: Fault, subject: Subject) -> str:
    """Return the command that makes again what is damaged."""
    stage = subject.stages.get(fault.key) or fault.stage or "STAGE"
    return shlex.join(["orchestrator", "run", str(subject.job_file or "JOB"), "--force", stage])


class Tally:
    """Counts what was checked."""

    def __init__(self, *, is_deep: bool) -> None:
        self._is_deep = is_deep
        self._num_stages = self._num_files = self._size = 0
        self._found: list[Found] = []

    def add(self, checked: Checked, found: Sequence[Found]) -> None:
        self._num_stages += checked.stage is not None
        self._num_files += checked.num_files
        self._size += checked.size
        self.add_found(found)

    def add_found(self, found: Sequence[Found]) -> None:
        self._found += found

    @property
    def num_left(self) -> int:
        """Faults that are not repaired."""
        return sum(one.repaired_from is None for one in self._found)

    def summary(self) -> str:
        """Return one line: what was checked, how, and how many faults are left."""
        stages = count_text(self._num_stages, "stage")
        files = count_text(self._num_files, "file")
        how = "all bytes were read" if self._is_deep else "only sizes; --deep reads all bytes"
        num_repaired = len(self._found) - self.num_left
        repaired = f", {num_repaired} repaired" if num_repaired else ""
        faults = count_text(self.num_left, "fault")
        return f"{stages}, {files}, {size_text(self._size)}: {faults}{repaired} ({how})"

    def to_json(self) -> dict[str, JsonValue]:
        return {
            "deep": self._is_deep,
            "num_stages": self._num_stages,
            "num_files": self._num_files,
            "bytes": self._size,
            "faults": [one.to_json() for one in self._found],
        }


def lines_of(checked: Checked, found: Sequence[Found], subject: Subject) -> list[str]:
    """Return the lines about a stage."""
    stage = checked.stage or subject.stages.get(checked.key) or "-"
    name = f"{stage} ({checked.key[:SHORT_KEY]})"
    if not checked.is_finished:
        return [f"{name}: not finished"]
    state = count_text(len(found), "fault") if found else "ok"
    what = f"{count_text(checked.num_files, 'file')}, {size_text(checked.size)}"
    return [f"{name}: {what}: {state}", *(line for one in found for line in _lines_of(one))]


def _lines_of(found: Found) -> list[str]:
    fault = found.fault
    of = f" ({fault.output}/{fault.file.path})" if fault.file else ""
    action = (
        f"to make it again: {found.command}"
        if found.repaired_from is None
        else f"repaired from {found.repaired_from}"
    )
    return [f"  {fault.name}{of}: {fault.damage}: {fault.text}", f"    {action}"]
