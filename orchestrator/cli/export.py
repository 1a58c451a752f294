"""The verb export: a job's curves and numbers for other tools, from the store only."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from orchestrator.artifact import Manifest
from orchestrator.cli.job import load
from orchestrator.errors import StoreError
from orchestrator.history import StageHistory
from orchestrator.numbers import count_text
from orchestrator.results import load_results, load_training
from orchestrator.runs.status import Condition, load_status
from orchestrator.spec import Job
from orchestrator.store import Store, open_store
from pipelines import KINDS

FOLLOW_INTERVAL_S = 10.0


def export(arguments: Namespace, stdout: IO[str]) -> int:
    job = load(arguments)
    store = open_store(job.store)
    if arguments.target == "tensorboard":
        text = _to_tensorboard(job, store, Path(arguments.destination), follows=arguments.follow)
    else:
        text = _to_mlflow(job, store, arguments.destination)
    print(f"{arguments.destination}: {text}", file=stdout)
    return 0


def _to_tensorboard(job: Job, store: Store, folder: Path, *, follows: bool) -> str:
    """Write event files; if `follows`, until the job's run ends."""
    # tensorboardX imports protobuf, which no other verb needs
    from orchestrator.export.tensorboard import EventFiles  # noqa: PLC0415

    try:
        with EventFiles(folder) as files:
            while True:
                is_running = load_status(job, store, now_s=time.time()).state is Condition.RUNNING
                files.write(*_histories(job, store))
                if not (follows and is_running):
                    points = count_text(files.num_points, "point")
                    return f"{points} of {count_text(files.num_stages, 'stage')}"
                time.sleep(FOLLOW_INTERVAL_S)
    except OSError as err:
        raise StoreError(f"{folder}: cannot be written: {err.strerror}") from err


def _to_mlflow(job: Job, store: Store, uri: str) -> str:
    from orchestrator.export.mlflow import log_job  # noqa: PLC0415  an extra

    histories, manifests = _histories(job, store)
    num_new = log_job(uri, job.name, histories, manifests, store_uri=store.uri)
    return f"{num_new} new runs of {len(manifests)} finished stages"


def _histories(job: Job, store: Store) -> tuple[Mapping[str, StageHistory], Mapping[str, Manifest]]:
    """How each stage trained, and the manifests of finished stages, both by stage."""
    results = load_results(job, store, kinds=KINDS)
    stages = load_training(results, store, now_s=time.time()).histories.stages
    histories = {name: stages[key] for name, key in results.keys.items() if key in stages}
    return histories, results.manifests
