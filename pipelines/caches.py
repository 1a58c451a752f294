"""This user's cache on this machine: where it is. Imports no torch."""

from __future__ import annotations

import os
from pathlib import Path

from orchestrator.account import complete_environment


def cache_folder() -> Path:
    """The folder in XDG_CACHE_HOME, else in ~/.cache; it may be missing yet."""
    complete_environment()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "orchestrator"
