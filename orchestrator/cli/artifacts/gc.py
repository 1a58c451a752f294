"""The verb artifacts gc: remove what nothing in a store needs."""

from __future__ import annotations

import argparse
import re
import sys
from argparse import Namespace
from pathlib import Path
from typing import IO

from pydantic import JsonValue
from rich.table import Table

from orchestrator.artifacts.gc import Removed, collect_garbage
from orchestrator.cli.artifacts.chosen import chosen_store
from orchestrator.cli.console import make_console, print_json
from orchestrator.cli.job import load
from orchestrator.cli.options import Parsers, add_job_options
from orchestrator.numbers import size_text
from orchestrator.store import Store, open_store

DAY_S = 86400.0
DEFAULT_AGE = "30d"
LEAST_BLOB_AGE_S = 2 * DAY_S
"""A stage publishes its outputs before their manifest, and relies on blobs of the last day."""
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": DAY_S}


def add(parsers: Parsers, *, has_key: bool) -> None:
    text = "show what nothing in a store needs, and remove it with --yes"
    verb = parsers.add_parser("gc", help=text, description=f"{text[0].upper()}{text[1:]}.")
    verb.add_argument(
        "job", metavar="JOB", type=Path, nargs="?", help="a YAML job file; without it, --store"
    )
    add_job_options(verb)
    verb.add_argument(
        "--older-than",
        dest="age_s",
        metavar="AGE",
        type=_age_s,
        default=_age_s(DEFAULT_AGE),
        help=f"a number and s, m, h or d (default: {DEFAULT_AGE}); blobs and unfinished writes "
        "stay for two days at least",
    )
    verb.add_argument(
        "--results",
        action="store_true",
        help="also results that are not in the last run of a job, unless they are pinned",
    )
    verb.add_argument("--yes", action="store_true", help="remove it; otherwise this only lists it")
    verb.add_argument("--json", action="store_true", help="print only JSON on stdout")


def run(arguments: Namespace, stdout: IO[str]) -> int:
    store = _store(arguments)
    removed = collect_garbage(
        store,
        grace_s=arguments.age_s,
        blob_grace_s=max(arguments.age_s, LEAST_BLOB_AGE_S),
        has_results=arguments.results,
        is_dry=not arguments.yes,
        say=lambda line: print(line, file=sys.stderr),
    )
    if arguments.json:
        print_json(stdout, _document(arguments, store, removed))
        return 0
    make_console(stdout).print(_table(removed))
    size = size_text(sum(kind.size for kind in removed))
    action = f"removed {size}" if arguments.yes else f"would remove {size}; add --yes to remove it"
    print(f"{store.uri}: {action}", file=stdout)
    return 0


def _store(arguments: Namespace) -> Store:
    if arguments.job is None:
        return chosen_store(arguments, "artifacts gc without JOB")
    return open_store(load(arguments).store)


def _document(arguments: Namespace, store: Store, removed: tuple[Removed, ...]) -> JsonValue:
    kinds: dict[str, JsonValue] = {
        one.kind: {
            "num": one.num,
            "num_objects": one.num_objects,
            "bytes": one.size,
            "examples": list(one.examples),
        }
        for one in removed
    }
    return {
        "schema": 1,
        "store": store.uri,
        "is_dry_run": not arguments.yes,
        "older_than_s": arguments.age_s,
        "bytes": sum(one.size for one in removed),
        "kinds": kinds,
    }


def _table(removed: tuple[Removed, ...]) -> Table:
    table = Table("kind", box=None, pad_edge=False)
    for name in ("number", "objects", "size"):
        table.add_column(name, justify="right")
    table.add_column("such as", no_wrap=True)
    for one in removed:
        example = one.examples[0] if one.examples else ""
        table.add_row(one.kind, str(one.num), str(one.num_objects), size_text(one.size), example)
    return table


def _age_s(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not an age such as 30d or 12h")
    return float(found[1]) * _UNITS[found[2]]
