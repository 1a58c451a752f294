"""Other runs of a job in the same store, and other users with a job of the same name."""

from __future__ import annotations

from orchestrator.errors import StageHeldError, StoreError
from orchestrator.runs.journal import current_user
from orchestrator.runs.last_run import load_last_run
from orchestrator.runs.record import RunRecord, load_record
from orchestrator.runs.status import Condition, run_condition
from orchestrator.store.protocol import Store


def refuse_second_run(store: Store, job: str, *, now_s: float) -> None:
    """Raise StageHeldError if another run of the job is alive by its record.

    Needed only for a store in which two runs cannot agree who works on a stage.
    """
    record = _last_record(store, job)
    if record is not None and run_condition(record, now_s) is Condition.RUNNING:
        raise StageHeldError(
            f"{job}: run {record.run_id} is running, and store {store.uri} supports only one run "
            "at a time; wait until it ends, cancel it with `orchestrator cancel`, or choose "
            "another store with --store"
        )


def warn_of_other_user(store: Store, job: str) -> tuple[str, ...]:
    """Return a warning if another user's run was the last one of a job with this name."""
    record, user = _last_record(store, job), current_user()
    if record is None or record.user is None or user is None or record.user == user:
        return ()
    return (
        f"{job} was last run by {record.user} in store {store.uri}, and `status` and `report` show "
        "the newest run of a name; use --as NAME to run your job under a name of its own",
    )


def _last_record(store: Store, job: str) -> RunRecord | None:
    """The record of the job's last run, or None if there is none that can be read."""
    try:
        last = load_last_run(store, job)
        return load_record(store, last.run_id) if last is not None else None
    except StoreError:  # a damaged record must not block a run, which writes a new one
        return None
