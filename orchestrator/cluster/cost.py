"""The attempts at a stage and what they cost, for its manifest."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from pydantic import JsonValue

from orchestrator.cluster.attempt import Attempt
from orchestrator.errors import StoreError
from orchestrator.redaction import redactor
from orchestrator.runs.record import load_record
from orchestrator.spec import Resources
from orchestrator.store.attempts import AttemptNote, load_attempts, save_attempts
from orchestrator.store.protocol import Store
from orchestrator.store.trial_logs import TrialLog

PUBLISHED = "published"
"""How an attempt ended whose manifest is in the store."""


UNKNOWN_END = "its run ended"
"""How an attempt ended whose driver could not note it."""


def earlier_attempts(store: Store, training: str, run_ids: Iterable[str]) -> list[JsonValue]:
    """Return the attempts of earlier runs under `training`.

    A run whose notes cannot be read is left out: no stage fails for want of its provenance.
    """
    found: list[JsonValue] = []
    for run_id in run_ids:
        with suppress(StoreError):
            notes = load_attempts(store, training, run_id)
            found += [_with_end(store, note).model_dump(exclude_none=True) for note in notes]
    return found


def note_attempts(store: Store, attempt: Attempt) -> None:
    """Keep the attempts of this run for later runs of the stage.

    An outage of the store costs only these notes: the attempt that it interrupted is tried again.
    """
    run_id = str(attempt.provenance["run_id"])
    notes = [AttemptNote.model_validate(one) for one in _attempts(attempt)]
    with suppress(StoreError):
        own = [note for note in notes if note.run_id == run_id]
        save_attempts(store, attempt.training.folder, run_id, own)


def _with_end(store: Store, note: AttemptNote) -> AttemptNote:
    """Return the note with an end. A killed driver left none, and wrote its record until then."""
    if note.ended_at_s is not None:
        return note
    changes: dict[str, object] = {"end": UNKNOWN_END}
    with suppress(StoreError):
        heard_at_s = load_record(store, note.run_id).heard_at_s
        changes["ended_at_s"] = max(note.began_at_s, heard_at_s)
    return note.model_copy(update=changes)


def begin_attempt(attempt: Attempt, now_s: float) -> Attempt:
    """Return the attempt with its beginning in the list of attempts."""
    entry: dict[str, JsonValue] = {
        "run_id": attempt.provenance["run_id"],
        "number": attempt.number,
        "workers": attempt.workers,
        "began_at_s": now_s,
    }
    return _with_attempts(attempt, [*_attempts(attempt), entry])


def end_attempt(attempt: Attempt, why: str, now_s: float) -> Attempt:
    """Return the attempt with its end in the list of attempts, without secrets that an error may
    quote."""
    clean = redactor(os.environ, attempt.logs.secret_names).redacted_text(why)
    return _with_attempts(attempt, closed_attempts(attempt, clean, now_s))


def closed_attempts(attempt: Attempt, how: str, now_s: float) -> list[JsonValue]:
    """Return the list of attempts with the end of the last one."""
    attempts = _attempts(attempt)
    if not attempts or not isinstance(attempts[-1], dict):
        return attempts
    return [*attempts[:-1], {**attempts[-1], "ended_at_s": now_s, "end": how}]


def _attempts(attempt: Attempt) -> list[JsonValue]:
    found = attempt.provenance.get("attempts")
    return found if isinstance(found, list) else []


def _with_attempts(attempt: Attempt, attempts: list[JsonValue]) -> Attempt:
    return replace(attempt, provenance={**attempt.provenance, "attempts": attempts})


def cost_of(attempts: Iterable[JsonValue], resources: Resources) -> dict[str, JsonValue]:
    """Return the GPU-hours and core-hours that the attempts had reserved.

    Attempts of earlier runs count with the present resources per worker.
    """
    worker_hours = sum(_worker_hours(one) for one in attempts if isinstance(one, dict))
    return _cost(worker_hours, resources)


def cost_of_trials(logs: Iterable[TrialLog], attempt: Attempt) -> dict[str, JsonValue]:
    """Return the cost of all trials of a search, over all its runs."""
    hours = sum(log.elapsed_s for log in logs) / 3600
    return _cost(hours * attempt.workers, attempt.resources)


def _worker_hours(attempt: Mapping[str, Any]) -> float:
    lasted_s = float(attempt.get("ended_at_s", attempt["began_at_s"]) - attempt["began_at_s"])
    return max(0.0, lasted_s) / 3600 * (attempt["workers"] or 1)


def _cost(worker_hours: float, resources: Resources) -> dict[str, JsonValue]:
    return {
        "gpu_hours": worker_hours * resources.gpus_per_worker,
        "core_hours": worker_hours * resources.cpus_per_worker,
    }
