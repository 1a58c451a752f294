"""The attempts of each run at a stage, kept under `train/<key>` until the stage is done.

    train/<key>/runs/<run id>       a list, which the driver of the run writes

A later run of the stage reads one object per earlier run. The events of a run would show the same,
in tens of thousands of objects after some days.
"""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import TypeAdapter, ValidationError

from orchestrator.artifact import Value
from orchestrator.errors import IntegrityError
from orchestrator.store.protocol import Store


class AttemptNote(Value):
    """One attempt at a stage."""

    run_id: str
    number: int
    """Counted from 1 within the run."""
    workers: int
    began_at_s: float
    """Seconds since the epoch, as all times here."""
    ended_at_s: float | None = None
    """None while it runs, and if its driver was killed."""
    end: str | None = None
    """How it ended."""


_NOTES = TypeAdapter(tuple[AttemptNote, ...])


def note_run(store: Store, training: str, run_id: str) -> tuple[str, ...]:
    """Note that a run trains under `training`; returns the ids of all runs that did, oldest
    first."""
    save_attempts(store, training, run_id, ())
    return runs_of(store, training)


def runs_of(store: Store, training: str) -> tuple[str, ...]:
    """The ids of the runs that have trained under `training`, oldest first: an id begins with its
    time."""
    return tuple(name.rpartition("/")[2] for name in store.names(f"{training}/runs"))


def save_attempts(store: Store, training: str, run_id: str, notes: Iterable[AttemptNote]) -> None:
    """Replace the notes of a run. Raises StoreError."""
    store.write(_name(training, run_id), _NOTES.dump_json(tuple(notes), exclude_none=True))


def load_attempts(store: Store, training: str, run_id: str) -> tuple[AttemptNote, ...]:
    """Return the attempts of a run, empty for a run of a version that did not note them. Raises
    IntegrityError for damaged notes."""
    content = store.read(_name(training, run_id))
    try:
        return _NOTES.validate_json(content) if content else ()
    except ValidationError as err:
        where = f"store {store.uri}: {_name(training, run_id)}"
        raise IntegrityError(f"{where}: is not a list of attempts") from err


def _name(training: str, run_id: str) -> str:
    return f"{training}/runs/{run_id}"
