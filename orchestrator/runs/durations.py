"""How long the stages of a job took when they last finished, for an estimate of the next run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pydantic import JsonValue

from orchestrator.errors import IntegrityError, StoreError
from orchestrator.runs.last_run import LastRun, load_last_run
from orchestrator.store.protocol import Store
from orchestrator.store.publish import load_manifest


def load_durations(store: Store, job_name: str, names: Iterable[str]) -> Mapping[str, float]:
    """Return the seconds that each of these stages took in the job's last run, over all attempts.

    A run that is about to start must call this before it replaces the record of the last run.
    Stages that did not finish are absent, and so are those with damaged records. All are absent
    if the store does not answer: a run never fails for want of durations.
    """
    try:
        last = load_last_run(store, job_name)
        return {} if last is None else _durations_of(store, last, names)
    except StoreError:
        return {}


def _durations_of(store: Store, last: LastRun, names: Iterable[str]) -> Mapping[str, float]:
    durations = {}
    for name in names:
        duration_s = _duration_s(store, last.stages[name].key) if name in last.stages else None
        if duration_s is not None:
            durations[name] = duration_s
    return durations


def _duration_s(store: Store, key: str) -> float | None:
    """Return the seconds of all attempts at the stage with this Key. None if no attempt has a
    beginning and an end."""
    try:
        manifest = load_manifest(store, key)
    except IntegrityError:
        return None
    attempts = manifest.provenance.get("attempts") if manifest is not None else None
    if not isinstance(attempts, list):
        return None
    seconds = [lasted_s for one in attempts if (lasted_s := _lasted_s(one)) is not None]
    return sum(seconds) if seconds else None


def _lasted_s(attempt: JsonValue) -> float | None:
    match attempt:
        case {"began_at_s": int() | float() as began_at_s, "ended_at_s": int() | float() as end_s}:
            # A clock that was set back during the attempt would make it negative.
            return max(0.0, end_s - began_at_s)
        case _:
            return None
