"""The verbs of `orchestrator artifacts`: one file per verb, each with `add` and `run`."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import IO, Protocol

from orchestrator.cli.artifacts import bundle, gc, get, lineage, ls, pin, pull, push, unpin, verify
from orchestrator.cli.options import Parsers


class Verb(Protocol):
    """The module of a verb."""

    def add(self, parsers: Parsers, *, has_key: bool) -> None:
        """Add the verb's parser to `parsers`. With `has_key` there is no argument JOB, because
        `--key` names the stage."""

    def run(self, arguments: Namespace, stdout: IO[str]) -> int:
        """Write the results to `stdout` and return the exit code."""


VERBS: Mapping[str, Verb] = {
    "ls": ls,
    "get": get,
    "verify": verify,
    "lineage": lineage,
    "pin": pin,
    "unpin": unpin,
    "push": push,
    "pull": pull,
    "gc": gc,
    "bundle": bundle,
}


def add_artifacts(verbs: Parsers, words: Sequence[str]) -> None:
    """Add `artifacts` and its verbs. `words` are the command line."""
    text = "list, fetch, check and pin what a store holds"
    parser = verbs.add_parser(
        "artifacts", help=text, description=f"{text[0].upper()}{text[1:]}. Reads only the store."
    )
    parsers = parser.add_subparsers(dest="artifacts_verb", required=True, metavar="VERB")
    # argparse cannot leave out a first positional argument because of an option.
    has_key = any(word == "--key" or word.startswith("--key=") for word in words)
    for verb in VERBS.values():
        verb.add(parsers, has_key=has_key)


def artifacts(arguments: Namespace, stdout: IO[str]) -> int:
    return VERBS[arguments.artifacts_verb].run(arguments, stdout)
