"""The verb artifacts lineage."""

from __future__ import annotations

from argparse import Namespace
from typing import IO

from orchestrator.cli.artifacts.chosen import add_verb, choose
from orchestrator.cli.options import Parsers


def add(parsers: Parsers, *, has_key: bool) -> None:
    add_verb(parsers, "lineage", "lineage", has_key=has_key)


def run(arguments: Namespace, stdout: IO[str]) -> int:
    choose(arguments)
    return 0
