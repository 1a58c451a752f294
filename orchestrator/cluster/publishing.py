"""Publish a stage's outputs and then its manifest, which marks the stage as finished."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Mapping
from importlib import metadata

import ray
from pydantic import JsonValue

from orchestrator.artifact import CODE_PATCH, Artifact, File, Manifest
from orchestrator.cluster.attempt import Attempt
from orchestrator.cluster.cost import PUBLISHED, closed_attempts, cost_of
from orchestrator.cluster.origin import publish_records
from orchestrator.code_version import CodeVersion, code_sha256
from orchestrator.contract import StageResult
from orchestrator.errors import StoreError
from orchestrator.store import open_store
from orchestrator.store.blobs import publish_with_blobs
from orchestrator.store.publish import blob_name, publish_artifact


def publish_result(
    attempt: Attempt,
    result: StageResult,
    *,
    published: Mapping[str, Artifact] | None = None,
    hardware: Mapping[str, JsonValue] | None = None,
    cost: Mapping[str, JsonValue] | None = None,
) -> Manifest:
    """Publish the outputs, then the manifest. Returns the manifest that is then in the store.

    `published` are outputs, by name, that are already in the store. `hardware` describes what the
    workers ran on. Without `cost`, the cost is that of the attempts.
    """
    store = open_store(attempt.store_uri)
    code = _code_that_ran(attempt.provenance.get("code"))
    # Of other code than the driver's, the patch would be wrong.
    left_out = CODE_PATCH if code.patch is None else None
    records = {name: files for name, files in attempt.records.items() if name != left_out}
    attempts = closed_attempts(attempt, PUBLISHED, time.time())
    manifest = Manifest(
        key=attempt.key,
        stage=attempt.stage,
        kind=attempt.kind,
        recipe=attempt.recipe,
        params=attempt.params.model_dump(mode="json"),
        recipe_audit=attempt.audit(),
        artifacts={
            **{
                name: publish_artifact(store, folder, always=attempt.is_forced)
                for name, folder in result.outputs.items()
            },
            **(published or {}),
            **publish_records(store, records),
        },
        metrics=result.metrics,
        provenance={
            **attempt.provenance,
            "code": code.model_dump(mode="json"),
            "attempts": attempts,
            "cost": dict(cost or cost_of(attempts, attempt.resources)),
            **_surroundings(),
            **(hardware or {}),
        },
    )
    local = {
        file.sha256: folder / file.path
        for name, folder in result.outputs.items()
        for file in manifest.artifacts[name].files
    }

    def upload_again(file: File) -> None:
        if file.sha256 not in local:
            raise StoreError(
                f"store {store.uri}: {blob_name(file.sha256)} ({file.path}) was deleted before "
                "the stage could publish it; run again with --force STAGE"
            )
        store.upload(blob_name(file.sha256), local[file.sha256])

    return publish_with_blobs(store, manifest, upload_again)


def _code_that_ran(of_driver: JsonValue) -> CodeVersion:
    """The version of this process's code. The driver knows the commit and the patch; they count
    only if both have the same source files."""
    version = CodeVersion.model_validate(of_driver) if of_driver is not None else None
    if version is None or version.sha256 != code_sha256():
        version = CodeVersion(sha256=code_sha256())
    return version


def _surroundings() -> dict[str, JsonValue]:
    return {
        "finished_at_s": time.time(),
        "host": socket.gethostname(),
        "python": sys.version.split()[0],
        "packages": _versions(),
        "ray_job_id": ray.get_runtime_context().get_job_id() if ray.is_initialized() else None,
    }


def _versions() -> dict[str, JsonValue]:
    """The versions of all packages that are installed here, by name."""
    found = {dist.name: dist.version for dist in metadata.distributions() if dist.name}
    return dict(sorted(found.items()))
