"""The files of an evaluation's output `details` -> their part of the Markdown report. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath

from orchestrator.report.markup import escaped

SHOWN = (".png", ".jpg", ".svg")
HIDDEN = "predictions"
"""Files and folders whose names begin so are linked as one: they may be thousands."""


def details_parts(stage: str, links: Mapping[str, str]) -> list[list[str]]:
    """A heading, pictures, and links to the other files; `links` are by path in the artifact."""
    told = {path: link for path, link in sorted(links.items()) if not _is_hidden(path)}
    pictures = [f"![{escaped(path)}](<{link}>)" for path, link in told.items() if path.endswith(SHOWN)]
    others = [f"[{escaped(path)}](<{link}>)" for path, link in told.items() if not path.endswith(SHOWN)]
    num_hidden = len(links) - len(told)
    files = [f"predictions in {num_hidden} {'file' if num_hidden == 1 else 'files'} beside these"] if num_hidden else []
    return [[f"## Details of {escaped(stage)}"], pictures, [", ".join([*others, *files])]]


def _is_hidden(path: str) -> bool:
    return any(part.startswith(HIDDEN) for part in PurePosixPath(path).parts)
