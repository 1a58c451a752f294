"""Runs the verbs of `orchestrator artifacts` in this process."""

from __future__ import annotations

import io
import json
from typing import Any

from orchestrator.cli.arguments import parse_arguments
from orchestrator.cli.artifacts import artifacts


def run(*words: str) -> tuple[int, str]:
    """The exit code and the output of a verb."""
    stream = io.StringIO()
    code = artifacts(parse_arguments(["artifacts", *words]), stream)
    return code, stream.getvalue()


def run_json(*words: str) -> Any:
    """The document that a verb prints."""
    return json.loads(run(*words, "--json")[1])
