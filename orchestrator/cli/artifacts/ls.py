"""The verb artifacts ls: what a store has of a job's stages, or of all stages."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterable, Iterator
from typing import IO

from rich.table import Column, Table
from rich.text import Text

from orchestrator.artifacts.listing import Finished, Listed, list_stages, list_store
from orchestrator.cli.artifacts.chosen import SHORT_KEY, add_verb, choose, chosen_store
from orchestrator.cli.console import make_console
from orchestrator.cli.options import Parsers
from orchestrator.numbers import count_text, size_text
from orchestrator.report.lineage import time_text


def add(parsers: Parsers, *, has_key: bool) -> None:
    text = "list what a store has of a job's stages, or of all stages"
    add_verb(parsers, "ls", text, has_key=has_key, needs_job=False)


def run(arguments: Namespace, stdout: IO[str]) -> int:
    if arguments.job is None and arguments.key is None:
        store = chosen_store(arguments, "artifacts ls without JOB")
        found = list_store(store)
    else:
        chosen = choose(arguments)
        store, found = chosen.store, list_stages(chosen.store, chosen.keys)
    if arguments.json:
        _print_json(store.uri, found, stdout)
    elif arguments.job is None:
        _print_lines(found, stdout)
    else:
        make_console(stdout).print(_table(found))
    return 0


def _print_json(uri: str, found: Iterable[Listed], stream: IO[str]) -> None:
    """Write one document. Each stage is written when it is found: a store may have a million."""
    stream.write(f'{{"schema": 1, "store": {json.dumps(uri)}, "stages": [')
    for number, one in enumerate(found):
        separator = ",\n" if number else "\n"
        stream.write(separator + json.dumps(one.to_json(), ensure_ascii=False))
    stream.write("\n]}\n")


def _print_lines(found: Iterable[Listed], stream: IO[str]) -> None:
    """Write a line for each stage when it is found, so widths do not depend on the content."""
    row = "{:8}  {:20}  {:24}  {:>9}  {:20}  {}"
    print(row.format("key", "job", "stage", "size", "finished", "outputs").rstrip(), file=stream)
    num_stages = 0
    for one in found:
        num_stages += 1
        size = size_text(sum(output.size for output in one.outputs.values()))
        job = (one.finished.job if one.finished else None) or "-"
        cells = (one.key[:SHORT_KEY], job, one.stage or "-", size, _when(one.finished))
        print(row.format(*cells, "; ".join(_notes(one))).rstrip(), file=stream)
    print(count_text(num_stages, "finished stage"), file=stream)


def _table(found: Iterable[Listed]) -> Table:
    table = Table(
        Column("stage", overflow="fold"),
        Column("key", no_wrap=True),
        Column("output", overflow="fold"),
        Column("files", no_wrap=True, justify="right"),
        Column("size", no_wrap=True, justify="right"),
        Column("finished", no_wrap=True),
        Column("run", no_wrap=True),
        Column("pinned", no_wrap=True),
        box=None,
        pad_edge=False,
    )
    for one in found:
        for row in _rows(one):
            table.add_row(*(Text(cell) for cell in row))
    return table


def _rows(one: Listed) -> Iterator[tuple[str, ...]]:
    """Yield a row for each output; the first has the stage's own facts, too."""
    stage = (one.stage or "-", one.key[:SHORT_KEY])
    run_id = (one.finished.run_id if one.finished else None) or ""
    facts = (_when(one.finished), run_id, "pinned" if one.is_pinned else "")
    outputs = [
        (name, str(output.num_files), size_text(output.size))
        for name, output in one.outputs.items()
    ]
    state = "not finished" if one.fault is None else "damaged manifest"
    first, *others = outputs or [("none" if one.finished else state, "", "")]
    yield (*stage, *first, *facts)
    for other in others:
        yield ("", "", *other, "", "", "")


def _when(finished: Finished | None) -> str:
    at_s = finished.finished_at_s if finished else None
    return "-" if at_s is None else time_text(at_s)


def _notes(one: Listed) -> Iterator[str]:
    if one.is_pinned:
        yield "pinned"
    if one.fault is not None:
        yield "damaged manifest"
    yield from one.outputs
