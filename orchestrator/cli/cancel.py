"""The verb cancel: ask the driver of a job's run to cancel the run or some of its stages."""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from typing import IO

from pydantic import JsonValue

from orchestrator.cli.console import print_json
from orchestrator.cli.job import load
from orchestrator.cli.logs import load_run
from orchestrator.errors import Fault, OrchestratorError, SpecError
from orchestrator.numbers import duration
from orchestrator.runs.cancel import WHOLE_RUN, request_cancel
from orchestrator.runs.record import RunRecord, RunState
from orchestrator.runs.status import Condition, run_condition
from orchestrator.spec import cells_named
from orchestrator.spec.faults import suggestion
from orchestrator.store import open_store


def cancel(arguments: Namespace, stdout: IO[str]) -> int:
    job = load(arguments)
    store = open_store(job.store)
    record = load_run(job, store, arguments.run)
    silent_for = duration(max(0.0, time.time() - record.heard_at_s))
    if record.state is not RunState.RUNNING:
        raise OrchestratorError(
            f"{job.name}: nothing to cancel: run {record.run_id} ended {silent_for} ago, "
            f"{record.state}"
        )
    names = _stages_to_cancel(record, arguments.stages) if arguments.stages else (WHOLE_RUN,)
    request_cancel(store, record.run_id, names, now_s=time.time())
    if run_condition(record, time.time()) is Condition.LOST:
        warning = f"the driver of run {record.run_id} has written nothing for {silent_for}"
        print(f"warning: {warning}; only a driver that still runs reads this", file=sys.stderr)
    if arguments.json:
        stages: JsonValue = list(names) if arguments.stages else None
        print_json(stdout, {"run_id": record.run_id, "stages": stages})
    else:
        what = ", ".join(names) if arguments.stages else "all stages"
        print(
            f"{job.name}: asked run {record.run_id} to cancel {what}; its driver reads this within "
            f"seconds, and `orchestrator status {arguments.job}` shows the effect",
            file=stdout,
        )
    return 0


def _stages_to_cancel(record: RunRecord, names: list[str]) -> tuple[str, ...]:
    """Return the unfinished stages of a run that `names` refer to; the name of a matrix means all
    its cells.

    Raises SpecError for a stage that is not in the run, OrchestratorError if none is unfinished.
    """
    faults = [
        Fault("STAGE", None, None, "", _unknown(name, record))
        for name in names
        if not cells_named(name, record.stages)
    ]
    if faults:
        raise SpecError(faults)
    named = dict.fromkeys(stage for name in names for stage in cells_named(name, record.stages))
    unfinished = tuple(name for name in named if not record.stages[name].state.is_final)
    if not unfinished:
        are = ", ".join(f"{name} is {record.stages[name].state}" for name in named)
        raise OrchestratorError(f"{record.job}: nothing to cancel: {are}")
    return unfinished


def _unknown(name: str, record: RunRecord) -> str:
    return f"run {record.run_id} has no stage {name!r}{suggestion(name, record.stages)}"
