"""The attempts at a stage and what they cost, for its manifest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from pydantic import JsonValue

from orchestrator.cluster.attempt import Attempt
from orchestrator.runs.history import load_histories
from orchestrator.spec import Resources
from orchestrator.store.protocol import Store
from orchestrator.store.trial_logs import TrialLog

PUBLISHED = "published"
"""How an attempt ended whose manifest is in the store."""


def earlier_attempts(store: Store, run_ids: Iterable[str], key: str) -> list[JsonValue]:
    """Return the attempts of earlier runs at the stage with this Key, as their events show them.

    An attempt's end is the time of its last event. Records that are damaged are left out.
    """
    stage = load_histories(store, run_ids, keys=[key]).stages[key]
    return [
        {
            "run_id": one.run_id,
            "number": one.number,
            "workers": one.workers,
            "began_at_s": one.began_at_s,
            "ended_at_s": one.ended_at_s,
            "end": one.lost or "its run ended",
        }
        for one in stage.attempts
    ]


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
    """Return the attempt with its end in the list of attempts."""
    return _with_attempts(attempt, closed_attempts(attempt, why, now_s))


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
