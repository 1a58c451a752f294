"""The verb report, and the report that ends a run."""

from __future__ import annotations

import io
import shlex
import sys
from argparse import Namespace
from typing import IO

from orchestrator.cli.console import make_console, print_json
from orchestrator.cli.job import load
from orchestrator.errors import StoreError
from orchestrator.history import load_results
from orchestrator.report import (
    Audits,
    Cell,
    Origin,
    audit_lines,
    audits_of,
    changes_of,
    make_cells,
    make_csv,
    make_markdown,
    make_table,
    notes_of,
    published_rows,
    report_json,
)
from orchestrator.spec import Job
from orchestrator.store import Store, open_store
from pipelines import KINDS


def report(arguments: Namespace, stdout: IO[str]) -> int:
    job = load(arguments)
    if arguments.output is None:
        show_results(arguments, job, open_store(job.store), stdout)
        return 0
    text = io.StringIO(newline="")
    show_results(arguments, job, open_store(job.store), text)
    try:
        arguments.output.write_text(text.getvalue(), encoding="utf-8", newline="")
    except OSError as err:
        raise StoreError(f"--output {arguments.output}: cannot be written: {err.strerror}") from err
    return 0


def show_results(arguments: Namespace, job: Job, store: Store, stream: IO[str]) -> tuple[Cell, ...]:
    """Show the report of the job's last run on `stream`, in the format asked for; remarks go to stderr."""
    results = load_results(job, store, kinds=KINDS)
    cells = make_cells(results.job, results.manifests, rows=published_rows())
    audits = audits_of(results.job, results.manifests)
    origin = Origin(job.store, results.run_id, _run_command(arguments, job), results.changes)
    match "json" if arguments.json else getattr(arguments, "format", None):
        case "json":
            print_json(stream, report_json(job.name, cells, audits))
        case "markdown":
            stream.write(make_markdown(job.name, cells, audits, origin))
        case "csv":
            stream.write(make_csv(cells))
        case _:
            _print_report(job, cells, audits, stream)
    for remark in changes_of(origin):
        print(f"note: {remark}", file=sys.stderr)
    return cells


def _print_report(job: Job, cells: tuple[Cell, ...], audits: Audits, stream: IO[str]) -> None:
    console = make_console(stream)
    console.print(make_table(job.name, cells, is_ascii=not stream.isatty()))
    for note in notes_of(cells):
        console.print(note, markup=False, soft_wrap=True)
    if audits:
        console.print("Recipe audit")
    for line in audit_lines(audits):
        console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)


def _run_command(arguments: Namespace, job: Job) -> str:
    """What runs the job as it was given here."""
    overrides = (word for override in arguments.overrides for word in ("--set", override))
    return shlex.join(["orchestrator", "run", str(arguments.job), *overrides, "--store", job.store])
