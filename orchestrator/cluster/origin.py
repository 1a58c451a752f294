"""What all manifests of a run have in common: the code, the job file, and the submitted job of
Ray."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

from pydantic import JsonValue

from orchestrator.artifact import CODE_PATCH, JOB_FILE, Artifact
from orchestrator.code_version import code_patch, code_version
from orchestrator.process import JOB_CONFIG
from orchestrator.spec import Source
from orchestrator.store.protocol import Store
from orchestrator.store.publish import publish_artifact

RECORDS = "records"
"""The field of an attempt's provenance with the artifacts that its manifest gets in addition to its
outputs."""


def publish_origin(
    source: Source | None, store: Store, environ: Mapping[str, str]
) -> dict[str, JsonValue]:
    """Publish the job file as written and the patch of local changes. Returns the provenance that
    names them."""
    contents: dict[str, dict[str, bytes]] = {}
    if source is not None:
        contents[JOB_FILE] = {name_of(index): text for index, text in enumerate(source.files)}
    patch = code_patch()
    if patch is not None:
        contents[CODE_PATCH] = {"code.patch": patch}
    records = {name: _publish(store, files) for name, files in contents.items()}
    return {
        "code": code_version().model_dump(mode="json"),
        "overrides": list(source.overrides) if source is not None else [],
        RECORDS: {name: artifact.model_dump(mode="json") for name, artifact in records.items()},
        **_submission(environ),
    }


def name_of(index: int) -> str:
    """Return the name of a file of the job: the job file, or the file that the one before
    extends."""
    return f"extended_{index}.yaml" if index else "job.yaml"


def records_of(provenance: Mapping[str, JsonValue]) -> dict[str, Artifact]:
    """Return the artifacts that `publish_origin` has published."""
    found = provenance.get(RECORDS)
    records = found if isinstance(found, dict) else {}
    return {name: Artifact.model_validate(artifact) for name, artifact in records.items()}


def _publish(store: Store, files: Mapping[str, bytes]) -> Artifact:
    with tempfile.TemporaryDirectory(prefix="orchestrator-origin-") as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        return publish_artifact(store, Path(folder))


def _submission(environ: Mapping[str, str]) -> dict[str, JsonValue]:
    """Return the id of the job of `ray job submit` that this process is."""
    try:
        found = json.loads(environ.get(JOB_CONFIG, "{}"))["metadata"]["job_submission_id"]
    except (ValueError, KeyError, TypeError):
        return {}
    return {"submission_id": str(found)}
