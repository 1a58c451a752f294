"""The verb artifacts pull: copy a job's results from another store."""

from __future__ import annotations

from argparse import Namespace
from typing import IO

from orchestrator.cli.artifacts.push import add_copy, copy
from orchestrator.cli.job import load, store_at
from orchestrator.cli.options import Parsers
from orchestrator.store import open_store


def add(parsers: Parsers, *, has_key: bool) -> None:
    verb = add_copy(parsers, "pull", "copy a job's results from another store")
    verb.add_argument(
        "--from", dest="other", metavar="URI", required=True, help="the store that has them"
    )


def run(arguments: Namespace, stdout: IO[str]) -> int:
    job = load(arguments)
    return copy(arguments, store_at(arguments.other), open_store(job.store), job.name, stdout)
