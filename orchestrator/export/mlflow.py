"""Curves, metrics, params and locations of artifacts -> runs of an MLflow tracking server."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from orchestrator.artifact import Manifest
from orchestrator.errors import JobError, UnreachableError
from orchestrator.history import StageHistory
from orchestrator.report.lineage import code_text
from orchestrator.store.publish import blob_name

KEY_TAG = "orchestrator.key"
"""A run with this tag is the stage with this Key: it is not logged again."""
BATCH = 1000
"""Metrics in one request; MLflow takes no more."""
MAX_PARAMS = 100
"""Params in one request; MLflow takes no more."""
MAX_PARAM_LENGTH = 6000
MAX_TAG_LENGTH = 5000


def log_job(
    uri: str,
    job_name: str,
    histories: Mapping[str, StageHistory],
    manifests: Mapping[str, Manifest],
    *,
    store_uri: str,
) -> int:
    """Log each finished stage as a run of the experiment `job_name`; returns how many are new.

    Raises JobError without mlflow, UnreachableError if the server does not take them.
    """
    # by default mlflow tries for five minutes
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    try:
        from mlflow import MlflowClient  # noqa: PLC0415 - an extra
        from mlflow.exceptions import MlflowException  # noqa: PLC0415
    except ImportError as err:
        raise JobError(
            "export mlflow: mlflow is not installed; run: pip install mlflow-skinny"
        ) from err
    try:
        client = MlflowClient(tracking_uri=uri)
        experiment = client.get_experiment_by_name(job_name)
        experiment_id = (
            experiment.experiment_id if experiment else client.create_experiment(job_name)
        )
        new = {
            stage: manifest
            for stage, manifest in manifests.items()
            if not client.search_runs([experiment_id], f"tags.`{KEY_TAG}` = '{manifest.key}'")
        }
        for stage, manifest in new.items():
            history = histories.get(stage, StageHistory())
            _log_stage(client, experiment_id, stage, manifest, history, store_uri)
    except MlflowException as err:
        raise UnreachableError(f"export mlflow: {uri}: {err.message}") from err
    return len(new)


def _log_stage(
    client: Any,
    experiment_id: str,
    stage: str,
    manifest: Manifest,
    history: StageHistory,
    store_uri: str,
) -> None:
    from mlflow.entities import Metric, Param, RunTag  # noqa: PLC0415

    began_ms, ended_ms = (
        _milliseconds(manifest.provenance.get(name)) for name in ("started_at_s", "finished_at_s")
    )
    run = client.create_run(experiment_id, start_time=began_ms, run_name=stage)
    run_id = run.info.run_id
    tags = (RunTag(name, value[:MAX_TAG_LENGTH]) for name, value in _tags(manifest, store_uri))
    for some in _chunks(tags, MAX_PARAMS):
        client.log_batch(run_id, tags=some)
    params = (
        Param(name, json.dumps(value, ensure_ascii=False)[:MAX_PARAM_LENGTH])
        for name, value in manifest.params.items()
    )
    for some in _chunks(params, MAX_PARAMS):
        client.log_batch(run_id, params=some)
    points = (
        Metric(metric, value, round(time_s * 1000), step)
        for metric, curve in history.curves.items()
        for step, value, time_s in zip(curve.steps, curve.values, curve.times_s, strict=True)
    )
    final = (Metric(f"final_{one.name}", one.value, ended_ms or 0, 0) for one in manifest.metrics)
    for source in (points, final):
        for some in _chunks(source, BATCH):
            client.log_batch(run_id, metrics=some)
    client.set_terminated(run_id, end_time=ended_ms)


def _tags(manifest: Manifest, store_uri: str) -> Iterator[tuple[str, str]]:
    yield KEY_TAG, manifest.key
    yield "orchestrator.kind", manifest.kind
    yield "orchestrator.code", code_text(manifest.provenance.get("code"))
    for output, artifact in manifest.artifacts.items():
        for file in artifact.files[:10]:
            yield f"artifact.{output}/{file.path}", f"{store_uri}/{blob_name(file.sha256)}"


def _chunks(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while some := list(islice(items, size)):
        yield some


def _milliseconds(seconds: object) -> int | None:
    return round(seconds * 1000) if isinstance(seconds, int | float) else None
