"""Options that several verbs share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TypeAlias

from orchestrator.spec.locations import refuse_unexpanded

Parsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_job_options(verb: argparse.ArgumentParser, *, has_name: bool = True) -> None:
    """Add `--set`, `--as` and `--store`, which `cli.job.load` reads. Without `has_name`, `--as`
    means something else in this verb, and only `--set name=NAME` names the job."""
    verb.add_argument(
        "--set",
        dest="overrides",
        metavar="a.b=c",
        action="append",
        default=[],
        help="override a field, e.g. stages.pretrain.epochs=3; may be repeated",
    )
    if has_name:
        verb.add_argument(
            "--as",
            dest="overrides",
            metavar="NAME",
            action="append",
            type=lambda name: f"name={name}",
            help="use this name for the job, if another user has one of the same name in the store",
        )
    verb.add_argument(
        "--store", metavar="URI", help="where artifacts are stored; overrides the job's `store`"
    )


def output_path(text: str) -> Path:
    """Parse the path of an output. A shell does not expand the ~ in `--output=~/report.md`."""
    try:
        refuse_unexpanded(text)
    except ValueError as err:
        raise argparse.ArgumentTypeError(str(err)) from err
    return Path(text)
