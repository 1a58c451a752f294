"""Runs the command line in a process, as users do."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

JOB = """
name: small
store: ./store
stages:
  search: {kind: tune, of: pretrain, space: {lr: {loguniform: [1.0e-4, 1e-3]}}, num_trials: 2}
  pretrain:
    kind: pretrain
    data: images
    params_from: search.best_params
    epochs: 2
    expect: {top1: ">= 50"}
"""


def orchestrator(
    folder: Path, *arguments: str, env: Mapping[str, str] = {}
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "orchestrator", *arguments]
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
