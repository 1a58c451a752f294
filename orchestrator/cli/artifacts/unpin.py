"""The verb artifacts unpin: let gc remove a stage's results again."""

from __future__ import annotations

from argparse import Namespace
from typing import IO

from orchestrator.artifacts.pins import remove_pin
from orchestrator.cli.artifacts.chosen import SHORT_KEY, add_stage_verb, choose, only_stage
from orchestrator.cli.console import print_json
from orchestrator.cli.options import Parsers


def add(parsers: Parsers, *, has_key: bool) -> None:
    add_stage_verb(parsers, "unpin", "remove a stage's pin", has_key=has_key)


def run(arguments: Namespace, stdout: IO[str]) -> int:
    chosen = choose(arguments)
    stage = only_stage(arguments, chosen)
    key = chosen.key(stage)
    was_pinned = remove_pin(chosen.store, key)
    if arguments.json:
        print_json(stdout, {"stage": stage, "key": key, "was_pinned": was_pinned})
    else:
        print(
            f"{stage} ({key[:SHORT_KEY]}): {'unpinned' if was_pinned else 'was not pinned'}",
            file=stdout,
        )
    return 0
