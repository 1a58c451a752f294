"""The verb cancel: ask the driver of a job's run to cancel the run or some of its stages."""

from __future__ import annotations

import time
from argparse import Namespace
from typing import IO

from pydantic import JsonValue

from orchestrator.cli.console import print_json
from orchestrator.cli.job import load
from orchestrator.errors import Fault, OrchestratorError, SpecError
from orchestrator.report.numbers import duration
from orchestrator.runs.cancel import WHOLE_RUN, request_cancel
from orchestrator.runs.status import Condition, Status, load_status
from orchestrator.spec import cells_named
from orchestrator.spec.faults import suggestion
from orchestrator.store import open_store

_CAN_CANCEL = (Condition.WAITING, Condition.RUNNING)


def cancel(arguments: Namespace, stdout: IO[str]) -> int:
    job = load(arguments)
    store = open_store(job.store)
    status = load_status(job, store, now_s=time.time())
    if status.run_id is None or status.state is not Condition.RUNNING:
        raise OrchestratorError(f"{job.name}: nothing to cancel: {_why_not(status)}")
    names = _stages_to_cancel(status, arguments.stages) if arguments.stages else (WHOLE_RUN,)
    request_cancel(store, status.run_id, names, now_s=time.time())
    if arguments.json:
        stages: JsonValue = list(names) if arguments.stages else None
        print_json(stdout, {"run_id": status.run_id, "stages": stages})
    else:
        what = ", ".join(names) if arguments.stages else "all stages"
        print(
            f"{job.name}: asked run {status.run_id} to cancel {what}; its driver reads this within "
            f"seconds, and `orchestrator status {arguments.job}` shows the effect",
            file=stdout,
        )
    return 0


def _why_not(status: Status) -> str:
    age = duration(status.heard_s_ago or 0)
    match status.state:
        case Condition.WAITING:
            return "it has not run with this store; check --store"
        case Condition.LOST:
            return f"the driver of run {status.run_id} has written nothing for {age}"
        case state:
            return f"run {status.run_id} ended {age} ago, {state}"


def _stages_to_cancel(status: Status, names: list[str]) -> tuple[str, ...]:
    """Return the unfinished stages that `names` refer to; the name of a matrix means all its cells.

    Raises SpecError for an unknown stage, OrchestratorError if none is unfinished.
    """
    states = {row.stage: row.state for row in status.stages}
    faults = [
        Fault("STAGE", None, None, "", f"unknown stage {name!r}{suggestion(name, states)}")
        for name in names
        if not cells_named(name, states)
    ]
    if faults:
        raise SpecError(faults)
    named = dict.fromkeys(stage for name in names for stage in cells_named(name, states))
    unfinished = tuple(name for name in named if states[name] in _CAN_CANCEL)
    if not unfinished:
        are = ", ".join(f"{name} is {states[name]}" for name in named)
        raise OrchestratorError(f"{status.job}: nothing to cancel: {are}")
    return unfinished
