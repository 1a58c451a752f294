"""The command line: the verbs, and the only place that prints and exits."""

from __future__ import annotations

import io
import os
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import IO, NoReturn

from pydantic import JsonValue
from rich.table import Table

from orchestrator.cli.arguments import parse_arguments
from orchestrator.cli.console import make_console, print_json, reserved_stdout
from orchestrator.cli.status import following, show_json, show_status
from orchestrator.errors import Fault, InterruptedRunError, OrchestratorError, SpecError, StoreError
from orchestrator.history import load_results, plan_job
from orchestrator.plan import Plan
from orchestrator.report import Cell, CellVerdict, make_cells, make_table, report_json
from orchestrator.spec import Job, load_job
from orchestrator.spec.faults import suggestion
from orchestrator.status import Status, load_status
from orchestrator.store import Store, open_store
from pipelines import KINDS

RAY_JOB_MARK = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""What Ray sets for the command of a submitted job, and for nothing else."""


def main(argv: list[str] | None = None) -> NoReturn:
    """Run one verb and exit with its code."""
    arguments = parse_arguments(argv)
    with reserved_stdout() as stdout:
        try:
            exit_code = VERBS[arguments.verb](arguments, stdout)
        except OrchestratorError as err:
            exit_code = _tell_error(err, stdout if arguments.json else None)
        except KeyboardInterrupt:
            exit_code = _tell_error(InterruptedRunError("interrupted"), stdout if arguments.json else None)
    _exit(exit_code)


def _exit(exit_code: int) -> NoReturn:
    """End at once: threads of an interrupted run may still wait for their workers."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


def _tell_error(err: OrchestratorError, json_stream: IO[str] | None) -> int:
    print(err, file=sys.stderr)
    if json_stream is not None:
        faults: list[JsonValue] = [str(fault) for fault in err.faults] if isinstance(err, SpecError) else [str(err)]
        print_json(json_stream, {"exit_code": err.exit_code, "errors": faults})
    return err.exit_code


def _load(arguments: Namespace) -> Job:
    # The current folder of a Ray job is a copy of what was submitted, on one machine, and vanishes with the job.
    base_dir = None if RAY_JOB_MARK in os.environ else Path.cwd()
    return load_job(arguments.job, kinds=KINDS, overrides=arguments.overrides, store=arguments.store, base_dir=base_dir)


def _validate(arguments: Namespace, stdout: IO[str]) -> int:
    job = _load(arguments)
    if arguments.json:
        print_json(stdout, {"job": job.name, "stages": list(job.stages), "valid": True})
    else:
        print(f"{arguments.job}: valid, {len(job.stages)} stages: {', '.join(job.stages)}", file=stdout)
    return 0


def _plan(arguments: Namespace, stdout: IO[str]) -> int:
    job = _load(arguments)
    plan = plan_job(job, open_store(job.store))
    if arguments.json:
        print_json(stdout, plan.to_json())
    else:
        make_console(stdout).print(_plan_table(plan))
    return 0


def _plan_table(plan: Plan) -> Table:
    table = Table("stage", "kind", "verdict", "why", "needs", "key", box=None, pad_edge=False)
    for planned in plan.stages:
        needs = ", ".join(planned.stage.needs)
        table.add_row(planned.name, planned.stage.kind.name, planned.verdict, planned.why, needs, planned.key[:8])
    return table


def _run(arguments: Namespace, stdout: IO[str]) -> int:
    job = _load(arguments)
    _check_stages(job, "--only", arguments.only)
    _check_stages(job, "--force", arguments.force)
    store = open_store(job.store)
    plan = plan_job(job, store, forced=tuple(arguments.force))
    # ray takes two seconds to import, torch three: only a job that is known to be right pays for them
    from orchestrator.cli.progress import watching  # noqa: PLC0415
    from orchestrator.run import run_plan, select  # noqa: PLC0415

    only = tuple(arguments.only)
    with watching(select(plan, only) if only else plan, make_console(sys.stderr)) as watch:
        outcome = run_plan(plan, store, only=only, address=arguments.address, watch=watch)
    for name, error in outcome.errors.items():
        print(f"stages.{name}: {error}", file=sys.stderr)
    cells = _show_results(job, store, stdout, as_json=arguments.json)
    missed = arguments.strict and any(cell.verdict is CellVerdict.FAIL for cell in cells)
    return outcome.exit_code or int(missed)


def _check_stages(job: Job, option: str, names: list[str]) -> None:
    faults = [
        Fault(option, None, None, "", f"unknown stage {name!r}{suggestion(name, job.stages)}")
        for name in names
        if name not in job.stages
    ]
    if faults:
        raise SpecError(faults)


def _report(arguments: Namespace, stdout: IO[str]) -> int:
    job = _load(arguments)
    as_json = arguments.json or arguments.format == "json"
    if arguments.output is None:
        _show_results(job, open_store(job.store), stdout, as_json=as_json)
        return 0
    text = io.StringIO()
    _show_results(job, open_store(job.store), text, as_json=as_json)
    try:
        arguments.output.write_text(text.getvalue(), encoding="utf-8")
    except OSError as err:
        raise StoreError(f"--output {arguments.output}: cannot be written: {err.strerror}") from err
    return 0


def _show_results(job: Job, store: Store, stream: IO[str], *, as_json: bool) -> tuple[Cell, ...]:
    """Show the report of the job's last run on `stream`; remarks go to stderr."""
    results = load_results(job, store, kinds=KINDS)
    cells = make_cells(results.job, results.manifests)
    if as_json:
        print_json(stream, report_json(job, cells))
    else:
        make_console(stream).print(make_table(job.name, cells, is_ascii=not stream.isatty()))
    for stage, change in results.changes.items():
        print(
            f"note: the report shows stages.{stage} as last run; the job has changed since: {change}", file=sys.stderr
        )
    return cells


def _status(arguments: Namespace, stdout: IO[str]) -> int:
    job = _load(arguments)
    store = open_store(job.store)

    def load() -> Status:
        return load_status(job, store, now_s=time.time())

    statuses = following(load) if arguments.watch else (load(),)
    try:
        if arguments.json:
            show_json(statuses, stdout, is_watch=arguments.watch)
        else:
            show_status(statuses, stdout)
    except BrokenPipeError:
        _exit(0)  # what reads stdout has seen enough, as `head` does
    return 0


VERBS = {"validate": _validate, "plan": _plan, "run": _run, "status": _status, "report": _report}
