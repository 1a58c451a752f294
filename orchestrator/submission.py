"""Whether this process is the command of a job that was submitted to a Ray cluster. Imports no ray."""

from __future__ import annotations

import os


def is_submitted() -> bool:
    """True under `ray job submit`: Ray sets this variable for a job's command, and for nothing else."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
