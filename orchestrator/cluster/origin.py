"""What all manifests of a run have in common: the code, the job file, and the submitted job of
Ray."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from orchestrator.artifact import CODE_PATCH, JOB_FILE, Artifact
from orchestrator.code_version import code_patch, code_version
from orchestrator.process import JOB_CONFIG
from orchestrator.spec import Source
from orchestrator.store.protocol import Store
from orchestrator.store.publish import publish_artifact

Records = Mapping[str, Mapping[str, bytes]]
"""The contents of artifacts that are not outputs, by artifact and by the name of the file."""


@dataclass(frozen=True)
class Origin:
    """Where a run comes from."""

    provenance: Mapping[str, JsonValue]
    records: Records
    """The job file and the patch of local changes."""


def find_origin(source: Source | None, environ: Mapping[str, str]) -> Origin:
    """Return the origin of a run of this process. `source` is the job as written."""
    records: dict[str, dict[str, bytes]] = {}
    if source is not None:
        records[JOB_FILE] = {name_of(index): text for index, text in enumerate(source.files)}
    patch = code_patch()
    if patch is not None:
        records[CODE_PATCH] = {"code.patch": patch}
    provenance: dict[str, JsonValue] = {
        "code": code_version().model_dump(mode="json"),
        "overrides": list(source.overrides) if source is not None else [],
        **_submission(environ),
    }
    return Origin(provenance, records)


def name_of(index: int) -> str:
    """Return the name of a file of the job: the job file, or the file that the one before
    extends."""
    return f"extended_{index}.yaml" if index else "job.yaml"


def publish_records(store: Store, records: Records) -> dict[str, Artifact]:
    """Publish records just before the manifest that refers to them.

    At the beginning of the run would be too early: gc may delete an old blob that no manifest
    refers to yet.
    """
    return {name: _publish(store, files) for name, files in records.items()}


def _publish(store: Store, files: Mapping[str, bytes]) -> Artifact:
    with tempfile.TemporaryDirectory(prefix="orchestrator-origin-") as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        # They are small, and --force must repair a damaged one.
        return publish_artifact(store, Path(folder), always=True)


def _submission(environ: Mapping[str, str]) -> dict[str, JsonValue]:
    """Return the id of the job of `ray job submit` that this process is."""
    try:
        found = json.loads(environ.get(JOB_CONFIG, "{}"))["metadata"]["job_submission_id"]
    except (ValueError, KeyError, TypeError):
        return {}
    return {"submission_id": str(found)}
