"""The verb report with several jobs: side by side."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict
from typing import IO

from rich.table import Table

from orchestrator.cli.console import make_console, print_json
from orchestrator.cli.job import load
from orchestrator.errors import JobError
from orchestrator.numbers import change_text
from orchestrator.report.compare import ComparedMetric, Comparison, compare
from orchestrator.results import load_results
from orchestrator.store import open_store
from pipelines import KINDS


def show_comparison(arguments: Namespace, stream: IO[str]) -> int:
    """Compare the last runs of the jobs with the first one's. Returns the exit code. Raises
    JobError if no stage is in two of them."""
    paths = [arguments.job, *arguments.others]
    jobs = [load(Namespace(**{**vars(arguments), "job": path})) for path in paths]
    results = [load_results(job, open_store(job.store), kinds=KINDS) for job in jobs]
    names = [job.name for job in jobs]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    stages = [stage for result in results for stage in result.job.stages]
    if len(set(stages)) == len(stages):
        raise JobError(
            f"{', '.join(names)}: have no stage in common, so there is nothing to compare"
        )
    found = compare([(name, result.manifests) for name, result in zip(names, results, strict=True)])
    if arguments.json or arguments.format == "json":
        print_json(stream, {"schema": 1, **asdict(found)})
    else:
        _print(found, stream)
    return 0


def _print(found: Comparison, stream: IO[str]) -> None:
    console = make_console(stream)
    table = Table(box=None, pad_edge=False)
    table.add_column("stage", overflow="fold")
    table.add_column("metric", no_wrap=True)
    for name in found.jobs:
        table.add_column(name, justify="right")
    stage = None
    for row in found.metrics:
        shown = row.stage if row.stage != stage else ""
        table.add_row(shown, _metric(row), *_values(row))
        stage = row.stage
    console.print(table)
    if not found.differences:
        console.print("The jobs have the same params, code and data.")
        return
    console.print()
    differences = Table("stage", "differs", *found.jobs, box=None, pad_edge=False)
    for difference in found.differences:
        differences.add_row(difference.stage, difference.what, *difference.values)
    console.print(differences)


def _metric(row: ComparedMetric) -> str:
    return f"{row.metric} ({row.unit})" if row.unit else row.metric


def _values(row: ComparedMetric) -> list[str]:
    texts = []
    for index, (one, delta) in enumerate(zip(row.values, row.deltas, strict=True)):
        change = f" {change_text(delta)}" if index and delta is not None else ""
        texts.append("-" if one is None else f"{one.text}{change}")
    return texts
