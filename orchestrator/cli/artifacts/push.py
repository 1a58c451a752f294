"""The verb artifacts push: copy a job's results to another store. `pull` is its reverse."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from pathlib import Path
from typing import IO

from pydantic import JsonValue

from orchestrator.artifacts.copy import copy_job
from orchestrator.cli.console import print_json
from orchestrator.cli.job import load, store_at
from orchestrator.cli.options import Parsers, add_job_options
from orchestrator.numbers import count_text, size_text
from orchestrator.store import Store, open_store


def add(parsers: Parsers, *, has_key: bool) -> None:
    verb = add_copy(parsers, "push", "copy a job's results to another store")
    verb.add_argument(
        "--to", dest="other", metavar="URI", required=True, help="the store that gets them"
    )


def add_copy(parsers: Parsers, name: str, text: str) -> ArgumentParser:
    """Add a verb that copies a job's results."""
    verb = parsers.add_parser(
        name, help=text, description=f"{text[0].upper()}{text[1:]}. Copies only what is missing."
    )
    verb.add_argument("job", metavar="JOB", type=Path, help="a YAML job file")
    add_job_options(verb)
    verb.add_argument("--json", action="store_true", help="print only JSON on stdout")
    return verb


def run(arguments: Namespace, stdout: IO[str]) -> int:
    job = load(arguments)
    return copy(arguments, open_store(job.store), store_at(arguments.other), job.name, stdout)


def copy(arguments: Namespace, source: Store, target: Store, job_name: str, stdout: IO[str]) -> int:
    """Copy the results of a job, and print what was copied."""
    copied = copy_job(
        source, target, job_name, say=lambda line: print(f"{job_name}: {line}", file=sys.stderr)
    )
    if arguments.json:
        ends: dict[str, JsonValue] = {"job": job_name, "from": source.uri, "to": target.uri}
        print_json(stdout, {"schema": 1, **ends, **asdict(copied)})
        return 0
    print(
        f"{job_name}: {target.uri} has {count_text(copied.num_results, 'result')} and "
        f"{count_text(copied.num_blobs, 'file')}, {size_text(copied.size)}; "
        f"copied {copied.num_new_results} and {copied.num_new_blobs}, {size_text(copied.new_size)}",
        file=stdout,
    )
    if not copied.is_latest:
        later = "has a later run of the job, which stays its last one"
        print(f"note: {target.uri} {later}", file=sys.stderr)
    return 0
