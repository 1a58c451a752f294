"""The command line: the verbs, and the only place that prints and exits."""

from __future__ import annotations

import io
import os
import shlex
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
from orchestrator.report import (
    Cell,
    CellVerdict,
    Origin,
    changes_of,
    make_cells,
    make_csv,
    make_markdown,
    make_table,
    notes_of,
    published_rows,
    report_json,
)
from orchestrator.spec import Job, cells_named, load_job
from orchestrator.spec.faults import suggestion
from orchestrator.spec.schema import job_schema
from orchestrator.status import Status, load_status
from orchestrator.store import Store, open_store
from orchestrator.submission import is_submitted
from pipelines import KINDS


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
    base_dir = None if is_submitted() else Path.cwd()
    return load_job(
        arguments.job,
        kinds=KINDS,
        published={name: row.kind for name, row in published_rows().items()},
        overrides=arguments.overrides,
        store=arguments.store,
        base_dir=base_dir,
    )


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
    only = _stages_named(job, "--only", arguments.only)
    forced = _stages_named(job, "--force", arguments.force)
    store = open_store(job.store)
    plan = plan_job(job, store, forced=forced)
    # ray takes two seconds to import, torch three: only a job that is known to be right pays for them
    from orchestrator.cli.progress import watching  # noqa: PLC0415
    from orchestrator.cli.verdict import verdict_of  # noqa: PLC0415
    from orchestrator.run import run_plan, select  # noqa: PLC0415

    with watching(select(plan, only) if only else plan, make_console(sys.stderr)) as watch:
        outcome = run_plan(plan, store, only=only, address=arguments.address, watch=watch)
    for name, error in outcome.errors.items():
        print(f"stages.{name}: {error}", file=sys.stderr)
    cells = _show_results(arguments, job, store, stdout)
    stdout.flush()
    print(verdict_of(job.name, outcome, cells), file=sys.stderr)
    missed = arguments.strict and any(cell.verdict is CellVerdict.FAIL for cell in cells)
    return outcome.exit_code or int(missed)


def _stages_named(job: Job, option: str, names: list[str]) -> tuple[str, ...]:
    """The stages that an option names, all cells where it names a matrix."""
    faults = [
        Fault(option, None, None, "", f"unknown stage {name!r}{suggestion(name, job.stages)}")
        for name in names
        if not cells_named(name, job.stages)
    ]
    if faults:
        raise SpecError(faults)
    return tuple(stage for name in names for stage in cells_named(name, job.stages))


def _report(arguments: Namespace, stdout: IO[str]) -> int:
    job = _load(arguments)
    if arguments.output is None:
        _show_results(arguments, job, open_store(job.store), stdout)
        return 0
    text = io.StringIO(newline="")
    _show_results(arguments, job, open_store(job.store), text)
    try:
        arguments.output.write_text(text.getvalue(), encoding="utf-8", newline="")
    except OSError as err:
        raise StoreError(f"--output {arguments.output}: cannot be written: {err.strerror}") from err
    return 0


def _show_results(arguments: Namespace, job: Job, store: Store, stream: IO[str]) -> tuple[Cell, ...]:
    """Show the report of the job's last run on `stream`, in the format asked for; remarks go to stderr."""
    results = load_results(job, store, kinds=KINDS)
    cells = make_cells(results.job, results.manifests, rows=published_rows())
    origin = Origin(job.store, results.run_id, _run_command(arguments, job), results.changes)
    match "json" if arguments.json else getattr(arguments, "format", None):
        case "json":
            print_json(stream, report_json(job.name, cells))
        case "markdown":
            stream.write(make_markdown(job.name, cells, origin))
        case "csv":
            stream.write(make_csv(cells))
        case _:
            _print_report(job, cells, stream)
    for remark in changes_of(origin):
        print(f"note: {remark}", file=sys.stderr)
    return cells


def _print_report(job: Job, cells: tuple[Cell, ...], stream: IO[str]) -> None:
    console = make_console(stream)
    console.print(make_table(job.name, cells, is_ascii=not stream.isatty()))
    for note in notes_of(cells):
        console.print(note, markup=False, soft_wrap=True)


def _run_command(arguments: Namespace, job: Job) -> str:
    """What runs the job as it was given here."""
    overrides = (word for override in arguments.overrides for word in ("--set", override))
    return shlex.join(["orchestrator", "run", str(arguments.job), *overrides, "--store", job.store])


def _schema(arguments: Namespace, stdout: IO[str]) -> int:
    print_json(stdout, job_schema(KINDS))
    return 0


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


VERBS = {
    "validate": _validate,
    "plan": _plan,
    "run": _run,
    "status": _status,
    "report": _report,
    "schema": _schema,
}
