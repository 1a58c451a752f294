"""The runs of all jobs in a store: Listing, from the records and the clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import TypeVar

from pydantic import JsonValue

from orchestrator.errors import IntegrityError
from orchestrator.runs.last_run import load_last_run
from orchestrator.runs.record import RunRecord, load_record
from orchestrator.runs.status import Condition, run_condition
from orchestrator.schedule import State
from orchestrator.store.protocol import Store

T = TypeVar("T")

NUM_READERS = 16
"""Records read at a time. One takes tens of milliseconds from S3."""


@dataclass(frozen=True)
class RunSummary:
    """A run in one line. Times are in seconds."""

    job: str
    run_id: str
    state: Condition
    began_at_s: float
    took_s: float
    """From its begin to its end, to its last sign of life, or to now."""
    heard_s_ago: float
    num_finished: int
    """The number of stages that are done or reused."""
    num_stages: int
    error: str | None


@dataclass(frozen=True)
class Listing:
    """Runs of a store, newest first."""

    store: str
    runs: tuple[RunSummary, ...]
    num_left_out: int
    """The number of earlier runs that were not read."""
    remarks: tuple[str, ...]
    """Records that cannot be read."""

    def to_json(self) -> dict[str, JsonValue]:
        """Return `{"schema": 1, "store", "runs": [...], "num_left_out", "remarks"}`."""
        runs: list[JsonValue] = [{**asdict(run), "state": run.state.value} for run in self.runs]
        return {
            "schema": 1,
            "store": self.store,
            "runs": runs,
            "num_left_out": self.num_left_out,
            "remarks": list(self.remarks),
        }


def load_listing(store: Store, *, most: int | None, now_s: float) -> Listing:
    """Return the newest `most` runs, and the last run of each other job. `None`: all runs.

    A damaged record is a remark. Raises StoreError if the store is unreachable.
    """
    # The id of a run begins with its time in UTC.
    run_ids = sorted(store.folders("runs"), reverse=True)
    newest = run_ids[:most]
    records, remarks = _read(partial(load_record, store), newest)
    names = {record.job for record in records}
    others = [name for name in store.folders("jobs") if name not in names]
    last, damaged = _read(partial(load_last_run, store), others)
    earlier = sorted({one.run_id for one in last if one is not None} - set(newest))
    more, missing = _read(partial(load_record, store), earlier)
    summaries = [make_summary(record, now_s=now_s) for record in (*records, *more)]
    return Listing(
        store=store.uri,
        runs=tuple(sorted(summaries, key=lambda run: run.began_at_s, reverse=True)),
        num_left_out=len(set(run_ids) - {*newest, *earlier}),
        remarks=(*remarks, *damaged, *missing),
    )


def _read(load: Callable[[str], T], names: Iterable[str]) -> tuple[list[T], list[str]]:
    """Load what is named, several at a time. Returns the values, and what is wrong with others."""

    def loaded(name: str) -> T | IntegrityError:
        try:
            return load(name)
        except IntegrityError as err:
            return err

    with ThreadPoolExecutor(NUM_READERS) as pool:
        found = list(pool.map(loaded, names))
    values = [value for value in found if not isinstance(value, IntegrityError)]
    return values, [_first_line(err) for err in found if isinstance(err, IntegrityError)]


def _first_line(err: IntegrityError) -> str:
    return str(err).splitlines()[0]


def make_summary(record: RunRecord, *, now_s: float) -> RunSummary:
    state = run_condition(record, now_s)
    # The journal writes the record a last time when the run ends.
    end_s = now_s if state is Condition.RUNNING else record.heard_at_s
    finished = [
        stage for stage in record.stages.values() if stage.state in (State.DONE, State.REUSED)
    ]
    return RunSummary(
        job=record.job,
        run_id=record.run_id,
        state=state,
        began_at_s=record.began_at_s,
        took_s=max(0.0, end_s - record.began_at_s),
        heard_s_ago=max(0.0, now_s - record.heard_at_s),
        num_finished=len(finished),
        num_stages=len(record.stages),
        error=record.error,
    )
