"""Events of several runs -> how each stage trained."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from orchestrator.errors import IntegrityError
from orchestrator.history import AttemptHistory, Curve, Histories, RunSpan, StageHistory
from orchestrator.runs.record import load_record
from orchestrator.store.protocol import Store

NOT_CURVES = ("epoch", "eta_s")
"""Numbers of events that say only how far a stage is."""


def load_histories(store: Store, run_ids: Iterable[str], *, keys: Iterable[str]) -> Histories:
    """The histories of the stages with `keys` over the runs. Raises StoreError where the store is
    out of reach; what is damaged is a remark."""
    stages = {key: StageHistory() for key in keys}
    runs: list[RunSpan] = []
    remarks: list[str] = []
    for run_id in sorted(set(run_ids)):
        try:
            record = load_record(store, run_id)
        except IntegrityError as err:
            remarks.append(f"curves lack run {run_id}: {err}")
            continue
        runs.append(RunSpan(run_id, record.began_at_s, record.heard_at_s))
        of_run = {
            name: stages[stage.key] for name, stage in record.stages.items() if stage.key in stages
        }
        for batch in store.names(f"runs/{run_id}/events") if of_run else ():
            try:
                for line in _lines(store, batch):
                    if line["stage"] in of_run:
                        _hear(of_run[line["stage"]], run_id, line)
            except (ValueError, KeyError, TypeError) as err:
                remarks.append(f"curves lack a part: {batch} is damaged: {err}")
    return Histories(stages, tuple(runs), tuple(remarks))


def _lines(store: Store, batch: str) -> Iterator[dict[str, Any]]:
    for line in (store.read(batch) or b"").splitlines():
        yield json.loads(line)


def _hear(stage: StageHistory, run_id: str, line: Mapping[str, Any]) -> None:
    """Put one event into the history. A search's trials have plots of their own."""
    if line["attempt"] is None:
        return
    attempt = _attempt(stage, run_id, line["attempt"], line["time_s"])
    attempt.ended_at_s = max(attempt.ended_at_s, line["time_s"])
    attempt.lost = line["lost"] or attempt.lost
    attempt.workers = line.get("workers") or attempt.workers
    event = line["event"]
    is_late = attempt is not stage.attempts[-1]
    if line["trial"] is not None or event["done"] is None or is_late:
        return
    stage.total = event["total"] or stage.total
    if attempt.began_at_done is None:
        attempt.began_at_done = event["done"]
        for curve in stage.curves.values():
            curve.forget_after(event["done"])
    for name, value in event["metrics"].items():
        if name not in NOT_CURVES and math.isfinite(value):
            stage.curves.setdefault(name, Curve()).add(event["done"], value, line["time_s"])


def _attempt(stage: StageHistory, run_id: str, number: int, time_s: float) -> AttemptHistory:
    for attempt in reversed(stage.attempts):
        if (attempt.run_id, attempt.number) == (run_id, number):
            return attempt
    attempt = AttemptHistory(run_id, number, began_at_s=time_s, ended_at_s=time_s)
    stage.attempts.append(attempt)
    return attempt
