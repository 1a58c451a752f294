"""The verb status without a job: the runs in a store, as a table, or as JSON with --json."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Mapping
from typing import IO

from rich.table import Column, Table
from rich.text import Text

from orchestrator.cli.console import make_console, print_json
from orchestrator.cli.job import store_at
from orchestrator.numbers import duration
from orchestrator.runs.listing import Listing, load_listing
from orchestrator.runs.status import Condition

NUM_NEWEST = 50
"""Runs that are listed without --all."""
WIDE, WIDEST = 100, 120
"""Minimum columns of a terminal for when a run began, and for how long it took. The id of a run
also has its begin."""


def list_runs(arguments: Namespace, stdout: IO[str], *, styles: Mapping[Condition, str]) -> int:
    """Print the runs of `--store`. `styles` are the colours of their states."""
    store = store_at(arguments.store)
    listing = load_listing(store, most=None if arguments.all else NUM_NEWEST, now_s=time.time())
    if arguments.json:
        print_json(stdout, listing.to_json())
    else:
        show_listing(listing, stdout, styles)
    return 0


def show_listing(listing: Listing, stream: IO[str], styles: Mapping[Condition, str]) -> None:
    console = make_console(stream)
    if listing.runs:
        console.print(_table(listing, styles, width=console.width))
    else:
        console.print(f"{listing.store}: no runs", markup=False, soft_wrap=not console.is_terminal)
    if listing.num_left_out:
        text = f"{listing.num_left_out} earlier runs are not listed; --all lists them"
        console.print(text, style="dim")
    for remark in listing.remarks:
        console.print(remark, style="yellow", markup=False, soft_wrap=not console.is_terminal)


def _table(listing: Listing, styles: Mapping[Condition, str], *, width: int) -> Table:
    began = [Column("began", no_wrap=True)] if width >= WIDE else []
    took = [Column("took", no_wrap=True, justify="right")] if width >= WIDEST else []
    table = Table(
        Column("job", overflow="fold"),
        Column("run", no_wrap=True),
        Column("state", no_wrap=True),
        Column("stages", no_wrap=True, justify="right"),
        *began,
        *took,
        Column("updated", no_wrap=True, justify="right"),
        box=None,
        pad_edge=False,
    )
    for run in listing.runs:
        began_at = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.began_at_s))
        table.add_row(
            Text(run.job),
            run.run_id,
            Text(run.state, style=styles[run.state]),
            f"{run.num_finished}/{run.num_stages}",
            *([began_at] if began else []),
            *([duration(run.took_s)] if took else []),
            f"{duration(run.heard_s_ago)} ago",
        )
    return table
