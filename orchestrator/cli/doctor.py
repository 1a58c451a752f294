"""The verb doctor: check this machine and every machine of a cluster before a job uses them."""

from __future__ import annotations

import os
import time
from argparse import Namespace
from collections.abc import Iterator
from typing import IO

from orchestrator.capacity import Machine
from orchestrator.cli.console import print_json
from orchestrator.cli.job import load, store_at
from orchestrator.cluster.all_reduce import examine_gpus_here
from orchestrator.cluster.examination import Questions, examine, marked
from orchestrator.cluster.job_data import questions_of_driver, questions_of_machine
from orchestrator.doctor.check import DRIVER, Check, exit_code, summary, to_document
from orchestrator.doctor.judge import judge
from orchestrator.doctor.work import judge_all_reduce, judge_gpus
from orchestrator.spec import Job
from pipelines import CALLING_OPS, FIND_OPS


def doctor(arguments: Namespace, stdout: IO[str]) -> int:
    job = None if arguments.job is None else load(arguments)
    checks: list[Check] = []
    for check in _check_all(arguments, job, _store_uri(arguments, job)):
        checks.append(check)
        if not arguments.json:
            print(check, file=stdout, flush=True)
    if arguments.json:
        print_json(stdout, to_document(checks))
    else:
        print(summary(checks), file=stdout)
    return exit_code(checks)


def _store_uri(arguments: Namespace, job: Job | None) -> str | None:
    if job is not None:
        return job.store
    return None if arguments.store is None else store_at(arguments.store).uri


def _check_all(arguments: Namespace, job: Job | None, store_uri: str | None) -> Iterator[Check]:
    """Yield the checks of this machine, then those of the cluster."""
    address = arguments.address or os.environ.get("RAY_ADDRESS") or "local"
    hours = arguments.hours
    data = questions_of_driver(job) if job else ()
    driver = examine(Questions(store_uri, data=data, ops=_ops_of(job)))
    yield from judge(driver, DRIVER, driver=driver, hours=hours, now_s=time.time())
    if address == "local":
        gpus, reduced = examine_gpus_here()
        yield judge_gpus(gpus, DRIVER)
        if reduced is not None:
            yield judge_all_reduce(reduced, DRIVER)
        return
    from orchestrator.cluster.checkup import check_cluster  # noqa: PLC0415  ray

    with marked(store_uri) as marker:

        def questions_for(machine: Machine) -> Questions:
            data = questions_of_machine(job, machine) if job else ()
            return Questions(store_uri, marker, data, _ops_of(job))

        yield from check_cluster(address, questions_for, driver=driver, hours=hours)


def _ops_of(job: Job | None) -> str | None:
    """Return what finds the ops of mmcv, unless no stage of the job calls one."""
    stages = job.stages.values() if job else ()
    kinds = {(stage.kind.evaluates or stage.kind).name for stage in stages}
    return FIND_OPS if job is None or kinds & CALLING_OPS else None
