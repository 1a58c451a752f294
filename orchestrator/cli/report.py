"""The verb report, and the report at the end of a run."""

from __future__ import annotations

import io
import os
import shlex
import sys
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import IO

from orchestrator.artifact import Manifest
from orchestrator.cli.artifacts.verify import Subject, Tally, lines_of, verified
from orchestrator.cli.compare import show_comparison
from orchestrator.cli.console import make_console, print_json
from orchestrator.cli.job import load
from orchestrator.contract import DETAILS
from orchestrator.errors import IntegrityError, StoreError
from orchestrator.history import Histories
from orchestrator.report import (
    Audits,
    Cell,
    Origin,
    Search,
    audit_lines,
    audits_of,
    changes_of,
    make_cells,
    make_csv,
    make_markdown,
    make_plots,
    make_searches,
    make_table,
    make_trials_table,
    notes_of,
    published_rows,
    report_json,
    search_lines,
)
from orchestrator.report.content import ReportContent
from orchestrator.report.latex import make_latex
from orchestrator.results import (
    FoundDetails,
    Training,
    load_details,
    load_results,
    load_training,
    load_trials,
)
from orchestrator.spec import Job
from orchestrator.store import Store, open_store
from orchestrator.store.publish import fetch_artifact
from pipelines import KINDS


def report(arguments: Namespace, stdout: IO[str]) -> int:
    show = show_comparison if arguments.others else _show_job
    if arguments.output is None:
        return show(arguments, stdout)
    text = io.StringIO(newline="")
    exit_code = show(arguments, text)
    try:
        arguments.output.write_text(text.getvalue(), encoding="utf-8", newline="")
    except OSError as err:
        raise StoreError(f"--output {arguments.output}: cannot be written: {err.strerror}") from err
    return exit_code


def _show_job(arguments: Namespace, stream: IO[str]) -> int:
    job = load(arguments)
    store = open_store(job.store)
    cells = show_results(arguments, job, store, stream)
    return _verify_cells(arguments, cells, store, stream) if arguments.verify else 0


def _verify_cells(
    arguments: Namespace, cells: Sequence[Cell], store: Store, stream: IO[str]
) -> int:
    """Check all bytes that the cells come from. The result is below the table in a terminal, and on
    stderr for other formats. Returns the exit code."""
    is_terminal = not arguments.json and arguments.format in (None, "terminal")
    stages = {cell.key: cell.stage for cell in cells if cell.key is not None}
    subject = Subject(store, stages.keys, stages, arguments.job)
    tally = Tally(is_deep=True)
    out = stream if is_terminal else sys.stderr
    for checked, found in verified(subject, is_deep=True):
        tally.add(checked, found)
        for line in lines_of(checked, found, subject) if found else ():
            print(line, file=out)
    print(f"Verified: {tally.summary()}", file=out)
    return IntegrityError.exit_code if tally.num_left else 0


def show_results(arguments: Namespace, job: Job, store: Store, stream: IO[str]) -> tuple[Cell, ...]:
    """Write the report of the job's last run to `stream` in the requested format. Remarks go to
    stderr."""
    format_name = "json" if arguments.json else getattr(arguments, "format", None)
    content = load_content(arguments, job, store, has_history=format_name in ("json", "html"))
    cells, audits, searches = content.cells, content.audits, content.searches
    plots, details = (
        _write_plots(arguments, searches),
        _fetch_details(arguments, content.manifests, store),
    )
    match format_name:
        case "json":
            lineages, histories = content.lineages, content.stage_histories
            document = report_json(
                job.name, cells, audits, searches, histories=histories, lineages=lineages
            )
            print_json(stream, document)
        case "markdown":
            text = make_markdown(
                job.name,
                cells,
                audits,
                content.origin,
                searches,
                plots,
                details,
                content.lineages,
            )
            stream.write(text)
        case "html":
            # Jinja2 and Pillow take a tenth of a second to import, which other verbs do not need.
            from orchestrator.report.page import make_page  # noqa: PLC0415

            stream.write(make_page(content))
        case "latex":
            kinds = {name: stage.kind.name for name, stage in content.job.stages.items()}
            stream.write(make_latex(job.name, cells, kinds))
        case "csv":
            stream.write(make_csv(cells, content.manifests))
        case _:
            _print_report(job, cells, audits, searches, stream)
    for remark in (*changes_of(content.origin), *content.remarks):
        print(f"note: {remark}", file=sys.stderr)
    return cells


def load_content(
    arguments: Namespace, job: Job, store: Store, *, has_history: bool
) -> ReportContent:
    """Read what the report needs. Without `has_history` it has no states, curves and details."""
    results = load_results(job, store, kinds=KINDS)
    found = load_trials(results.job, results.manifests, store)
    training, details = Training({}, Histories({}, ())), FoundDetails({}, ())
    if has_history:
        training = load_training(results, store, now_s=time.time())
        details = load_details(results.manifests, store)
    return ReportContent(
        job=results.job,
        manifests=results.manifests,
        cells=make_cells(results.job, results.manifests, rows=published_rows()),
        audits=audits_of(results.job, results.manifests),
        searches=make_searches(results.job, results.manifests, found.trials),
        origin=Origin(job.store, results.run_id, _run_command(arguments, job), results.changes),
        states=training.states,
        histories=training.histories,
        keys=results.keys,
        details=details.files,
        rows=published_rows(),
        run_error=training.run_error,
        remarks=(*found.remarks, *training.histories.remarks, *details.remarks),
    )


def _print_report(
    job: Job, cells: tuple[Cell, ...], audits: Audits, searches: Sequence[Search], stream: IO[str]
) -> None:
    console = make_console(stream)
    console.print(make_table(job.name, cells, is_ascii=not stream.isatty()))
    for note in notes_of(cells):
        console.print(note, markup=False, soft_wrap=True)
    if searches:
        console.print()
    for search in searches:
        console.print(make_trials_table(search, width=console.width, is_ascii=not stream.isatty()))
        for line in search_lines(search, is_ascii=not stream.isatty() or console.is_dumb_terminal):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        console.print()
    if audits:
        console.print("Recipe audit")
    for line in audit_lines(audits):
        # In a pipe, each stage stays on a line, for `grep`.
        text = f"  {line}"
        if stream.isatty():
            text = fill(text, console.width, subsequent_indent="    ", break_on_hyphens=False)
        console.print(text, markup=False, highlight=False, soft_wrap=True)


def _write_plots(
    arguments: Namespace, searches: Sequence[Search]
) -> Mapping[str, Mapping[str, str]]:
    """Write each search's plots to `--plots`, if given. Returns their paths relative to the report,
    by stage and title.

    Raises StoreError if they cannot be written.
    """
    folder: Path | None = getattr(arguments, "plots", None)
    if folder is None:
        return {}
    plots = {search.stage: make_plots(search) for search in searches}
    try:
        for stage, of_stage in plots.items():
            (folder / stage).mkdir(parents=True, exist_ok=True)
            for name, plot in of_stage.items():
                (folder / stage / name).write_bytes(plot.svg)
    except OSError as err:
        raise StoreError(f"--plots {folder}: cannot be written: {err.strerror}") from err
    return {
        stage: {
            plot.title: _seen(folder / stage / name, arguments) for name, plot in of_stage.items()
        }
        for stage, of_stage in plots.items()
    }


def _fetch_details(
    arguments: Namespace, manifests: Mapping[str, Manifest], store: Store
) -> Mapping[str, Mapping[str, str]]:
    """Write each evaluation's details to `--plots`, if given. Returns their paths relative to the
    report, by stage and path.

    Raises StoreError if they cannot be written, IntegrityError if the store has lost one.
    """
    folder: Path | None = getattr(arguments, "plots", None)
    if folder is None:
        return {}
    found = {
        stage: manifest.artifacts[DETAILS]
        for stage, manifest in manifests.items()
        if DETAILS in manifest.artifacts
    }
    try:
        for stage, artifact in found.items():
            # Here, because a store would report an unwritable folder as its own error.
            (folder / stage).mkdir(parents=True, exist_ok=True)
            fetch_artifact(store, artifact, folder / stage, key=manifests[stage].key)
    except OSError as err:
        raise StoreError(f"--plots {folder}: cannot be written: {err.strerror}") from err
    return {
        stage: {file.path: _seen(folder / stage / file.path, arguments) for file in artifact.files}
        for stage, artifact in found.items()
    }


def _seen(path: Path, arguments: Namespace) -> str:
    """Return `path` relative to the report, for links."""
    folder = arguments.output.parent if arguments.output else Path()
    return Path(os.path.relpath(path, folder)).as_posix()


def _run_command(arguments: Namespace, job: Job) -> str:
    """Return the command that runs the job with the same options."""
    overrides = (word for override in arguments.overrides for word in ("--set", override))
    return shlex.join(["orchestrator", "run", str(arguments.job), *overrides, "--store", job.store])
