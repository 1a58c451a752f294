"""Whether this process is the command of a job that was submitted to a Ray cluster, and what follows from that.

Imports no ray.
"""

from __future__ import annotations

import os

GRACE_S = 60.0
"""Outside of a Ray job: the time for a checkpoint of a large model to reach a distant store."""
RAY_STOP_WAIT_S = 3.0
"""Ray's own RAY_JOB_STOP_WAIT_TIME_S."""
LAST_WORDS_S = 1.0
"""What is left for the record and the exit."""


def is_submitted() -> bool:
    """True under `ray job submit`: Ray sets this variable for a job's command, and for nothing else."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def stop_grace_s() -> float:
    """Seconds that an interrupted run may wait for its stages: `ray job stop` kills a job's command after a while."""
    stated = os.environ.get("RAY_JOB_STOP_WAIT_TIME_S", "")
    if stated.isdecimal():
        return max(0.0, float(stated) - LAST_WORDS_S)
    return RAY_STOP_WAIT_S - LAST_WORDS_S if is_submitted() else GRACE_S
