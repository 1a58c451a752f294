"""The verb reproduce: which numbers of the paper a store reproduces, and what runs the rest."""

from __future__ import annotations

import shlex
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import asdict
from fnmatch import fnmatchcase
from importlib.resources import as_file, files
from pathlib import Path
from typing import IO

from pydantic import JsonValue
from rich.table import Table
from rich.text import Text

from orchestrator.cli.console import make_console, print_json
from orchestrator.errors import Fault, SpecError
from orchestrator.report import PublishedRow, make_cells, published_rows
from orchestrator.report.reproduce import ReproducedCell, Reproduction, make_reproductions
from orchestrator.results import load_results
from orchestrator.spec import load_job
from orchestrator.spec.faults import suggestion
from orchestrator.store import open_store
from pipelines import KINDS

NOT_REPRODUCED = 1
STYLES = {
    Reproduction.PASS: "green",
    Reproduction.FAIL: "bold red",
    Reproduction.NOT_RUN: "dim",
    Reproduction.SHOWN: "",
}


def reproduce(arguments: Namespace, stdout: IO[str]) -> int:
    rows = _chosen(arguments.rows)
    all_rows = published_rows()
    with as_file(files("orchestrator.report").joinpath("reproduce.yaml")) as path:
        job = load_job(
            path,
            kinds=KINDS,
            published={name: row.kind for name, row in all_rows.items()},
            store=arguments.store,
            base_dir=Path.cwd(),
        )
        results = load_results(job, open_store(job.store), kinds=KINDS)
        cells = make_cells(results.job, results.manifests, rows=all_rows)
        found = make_reproductions(results.job, cells, rows)
        commands = {
            (cell.row, cell.metric): _command(path, cell.stage, arguments.store)
            for cell in found
            if cell.verdict is Reproduction.NOT_RUN and cell.stage is not None
        }
    if arguments.json:
        judged: list[JsonValue] = [
            {**asdict(cell), "command": commands.get((cell.row, cell.metric))} for cell in found
        ]
        print_json(stdout, {"schema": 1, "store": job.store, "cells": judged})
    else:
        _print(found, commands, stdout)
    return 0 if all(cell.is_settled for cell in found) else NOT_REPRODUCED


def _chosen(patterns: list[str]) -> dict[str, PublishedRow]:
    """The rows that match a pattern; all without patterns. Raises SpecError for a pattern without
    rows."""
    rows = published_rows()
    faults = [
        Fault("--rows", None, None, "", f"unknown row {pattern!r}{suggestion(pattern, rows)}")
        for pattern in patterns
        if not any(_matches(name, pattern) for name in rows)
    ]
    if faults:
        raise SpecError(faults)
    return {
        name: row
        for name, row in rows.items()
        if not patterns or any(_matches(name, pattern) for pattern in patterns)
    }


def _matches(name: str, pattern: str) -> bool:
    """`coco` and `coco/*` mean all rows of that table."""
    return fnmatchcase(name, pattern) or name.startswith(f"{pattern.rstrip('/')}/")


def _command(job_file: Path, stage: str, store: str) -> str:
    is_below = job_file.is_relative_to(Path.cwd())
    shown = job_file.relative_to(Path.cwd()) if is_below else job_file
    words = ["orchestrator", "run", str(shown), "--only", stage, "--store", store]
    return shlex.join(words)


def _print(
    found: tuple[ReproducedCell, ...], commands: Mapping[tuple[str, str], str], stream: IO[str]
) -> None:
    console = make_console(stream)
    table = Table(box=None, pad_edge=False)
    table.add_column("row", overflow="fold")
    table.add_column("metric", no_wrap=True)
    for name in ("published", "ours"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("why", overflow="fold")
    for cell in found:
        why = "; ".join(filter(None, [cell.label, cell.note]))
        table.add_row(
            cell.row,
            cell.metric,
            f"{cell.published:g}",
            "-" if cell.value is None else f"{cell.value:.2f}",
            Text(cell.verdict, style=STYLES[cell.verdict]),
            why,
        )
    console.print(table)
    counts = (
        f"{sum(cell.verdict is verdict for cell in found)} {verdict}" for verdict in Reproduction
    )
    console.print(f"{len(found)} published numbers: {', '.join(counts)}", highlight=False)
    if commands:
        console.print("What is missing:")
    for command in dict.fromkeys(commands.values()):
        console.print(f"  {command}", markup=False, highlight=False, soft_wrap=True)
