"""The verbs validate, plan and schema, and the loading of jobs for all verbs."""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path
from typing import IO

from rich.table import Table

from orchestrator.cli.console import make_console, print_json
from orchestrator.errors import Fault, JobError, SpecError, escaped
from orchestrator.numbers import count_text
from orchestrator.plan import Plan
from orchestrator.planning import plan_job
from orchestrator.process import is_submitted
from orchestrator.report import published_rows
from orchestrator.s3.encryption import set_encryption
from orchestrator.spec import Job, load_job
from orchestrator.spec.locations import store_uri
from orchestrator.spec.schema import job_schema
from orchestrator.store import Store, open_store
from pipelines import KINDS


def load(arguments: Namespace) -> Job:
    """Return the job of the command line. From then on this process writes to S3 as the job's
    `store_options` say."""
    job = load_job(
        arguments.job,
        kinds=KINDS,
        published={name: row.kind for name, row in published_rows().items()},
        overrides=arguments.overrides,
        store=arguments.store,
        base_dir=_base_dir(),
    )
    if job.store_options is not None:
        options = job.store_options
        set_encryption(os.environ, sse=options.sse, kms_key=options.kms_key)
    return job


def store_at(uri: str) -> Store:
    """Return the store that `--store` names. Raises SpecError if it is not the location of one."""
    try:
        return open_store(store_uri(uri, _base_dir()))
    except ValueError as err:
        raise SpecError([Fault("--store", None, None, "", str(err))]) from err


def _base_dir() -> Path | None:
    # The current folder of a Ray job is a temporary copy of the submitted folder on one machine.
    return None if is_submitted() else _current_folder()


def _current_folder() -> Path:
    """Return the folder that a job's paths are relative to. Raises JobError if its name is not
    UTF-8, because records could not name it."""
    folder = str(Path.cwd())
    if escaped(folder) != folder:
        raise JobError(f"{escaped(folder)}: the current folder's name is not UTF-8 text; rename it")
    return Path(folder)


def validate(arguments: Namespace, stdout: IO[str]) -> int:
    job = load(arguments)
    if arguments.json:
        print_json(stdout, {"job": job.name, "stages": list(job.stages), "valid": True})
    else:
        print(
            f"{arguments.job}: valid, {count_text(len(job.stages), 'stage')}: "
            f"{', '.join(job.stages)}",
            file=stdout,
        )
    return 0


def plan(arguments: Namespace, stdout: IO[str]) -> int:
    job = load(arguments)
    planned = plan_job(job, open_store(job.store))
    if arguments.json:
        print_json(stdout, planned.to_json())
    else:
        make_console(stdout).print(_plan_table(planned))
    return 0


def schema(arguments: Namespace, stdout: IO[str]) -> int:
    print_json(stdout, job_schema(KINDS))
    return 0


def _plan_table(plan: Plan) -> Table:
    table = Table("stage", "kind", "verdict", "why", "needs", "key", box=None, pad_edge=False)
    for planned in plan.stages:
        needs = ", ".join(planned.stage.needs)
        table.add_row(
            planned.name,
            planned.stage.kind.name,
            planned.verdict,
            planned.why,
            needs,
            planned.key[:8],
        )
    return table
