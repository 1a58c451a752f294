"""What the workers of a stage ran on and used. Each worker notes it with the run's channel, and
rank 0 puts all notes into the manifest."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

from pydantic import JsonValue

from orchestrator.cluster.attempt import Attempt
from orchestrator.cluster.events import EventChannel
from orchestrator.cluster.hardware import Hardware, describe_machine, read_energy_j

JOULES_PER_KWH = 3.6e6
WAIT_S = 10.0
"""How long rank 0 waits for the other ranks' last notes. They end at the same time as rank 0."""
_LOOK_S = 0.1


class WorkerId(NamedTuple):
    """One worker of a stage in one run. Sorts by rank within an attempt."""

    attempt: int
    trial: str
    """The trial of a search; empty for other stages."""
    trial_attempt: int
    rank: int

    @property
    def group(self) -> tuple[int, str, int]:
        """What the workers of one group have in common."""
        return self.attempt, self.trial, self.trial_attempt


@contextmanager
def metered(
    attempt: Attempt, channel: EventChannel, *, rank: int, world_size: int, device: str
) -> Iterator[Callable[[], dict[str, JsonValue]]]:
    """Note this worker's hardware, and at the end of the block the energy that its GPUs used.

    Yields a function that returns the facts about all workers of the stage. It waits a few seconds
    for the other ranks of the group.
    """
    worker = WorkerId(attempt.number, attempt.trial or "", attempt.log_number, rank)
    hardware = describe_machine(uses_gpu=device != "cpu")
    # The energy of a GPU that several workers share belongs to none of them.
    metered_gpus = hardware.gpus if attempt.resources.gpus_per_worker >= 1 else {}
    began_j = read_energy_j(metered_gpus)
    channel.note(attempt.stage, worker, hardware)

    def note_end() -> None:
        used = {uuid: now_j - began_j[uuid] for uuid, now_j in read_energy_j(began_j).items()}
        channel.note(attempt.stage, worker, replace(hardware, energy_j=used or None))

    def facts() -> dict[str, JsonValue]:
        note_end()
        is_metered = bool(began_j)
        notes = _await_notes(attempt, channel, worker, world_size, is_metered=is_metered)
        return usage_facts({worker: hardware, **notes}, attempt.number)

    try:
        yield facts
    finally:
        note_end()


def _await_notes(
    attempt: Attempt, channel: EventChannel, worker: WorkerId, world_size: int, *, is_metered: bool
) -> dict[WorkerId, Hardware]:
    """Return all notes about the stage, if possible with those of the whole group."""
    deadline_s = time.monotonic() + WAIT_S
    while True:
        notes = channel.notes(attempt.stage)
        group = [note for one, note in notes.items() if one.group == worker.group]
        ended = [note for note in group if note.energy_j is not None or not is_metered]
        if len(ended) >= world_size or time.monotonic() > deadline_s:
            return notes
        time.sleep(_LOOK_S)


def usage_facts(notes: Mapping[WorkerId, Hardware], attempt: int) -> dict[str, JsonValue]:
    """Return the facts for a manifest. Hosts and machines are those of the last `attempt`, energy
    is of all attempts of this run."""
    last = {worker: note for worker, note in sorted(notes.items()) if worker.attempt == attempt}
    if not last:
        return {}
    machines: dict[str, dict[str, JsonValue]] = {}
    for host in dict.fromkeys(note.host for note in last.values()):
        machines[host] = _machine([note for note in last.values() if note.host == host])
    hosts: list[JsonValue] = [note.host for worker, note in last.items() if not worker.trial]
    hosts = hosts or [*machines]
    libraries = {
        name: next((getattr(note, name) for note in last.values() if getattr(note, name)), None)
        for name in ("driver", "cuda", "nccl")
    }
    return {
        "hosts": hosts,
        "machines": list(machines.values()),
        **{name: version for name, version in libraries.items() if version is not None},
        **_energy(notes),
    }


def _machine(notes: list[Hardware]) -> dict[str, JsonValue]:
    """Describe the machine that all these notes are about."""
    first = notes[0]
    gpus = {uuid: name for note in notes for uuid, name in note.gpus.items()}
    return {
        "host": first.host,
        "cpu": first.cpu,
        "cores": first.cores,
        "memory_gib": first.memory_gib,
        "gpus": [*sorted(gpus.values())],
    }


def _energy(notes: Mapping[WorkerId, Hardware]) -> dict[str, JsonValue]:
    """Return the energy of the GPUs, and how many of the workers reported theirs. A worker that was
    killed did not."""
    # The ranks of a group on one machine may see each other's GPUs.
    joules: dict[tuple[tuple[int, str, int], str], float] = {}
    for worker, note in notes.items():
        for uuid, used_j in (note.energy_j or {}).items():
            name = (worker.group, uuid)
            joules[name] = max(used_j, joules.get(name, 0.0))
    if not joules:
        return {}
    num_metered = sum(note.energy_j is not None for note in notes.values())
    return {
        "energy": {
            "kwh": sum(joules.values()) / JOULES_PER_KWH,
            "num_metered": num_metered,
            "num_workers": len(notes),
        }
    }
