"""Publish a stage's outputs and then its manifest, which marks the stage as finished."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Mapping
from importlib import metadata

from pydantic import JsonValue

from orchestrator.artifact import Artifact, Manifest
from orchestrator.cluster.attempt import Attempt
from orchestrator.code_version import CodeVersion, code_sha256
from orchestrator.contract import StageResult
from orchestrator.store import open_store
from orchestrator.store.publish import publish_artifact, publish_manifest

PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "ray",
    "onedl-mmengine",
    "onedl-mmcv",
    "onedl-mmdetection",
    "numpy",
)


def publish_result(
    attempt: Attempt,
    result: StageResult,
    *,
    published: Mapping[str, Artifact] | None = None,
    hardware: Mapping[str, JsonValue] | None = None,
) -> Manifest:
    """Publish the outputs, then the manifest. Returns the manifest that is then in the store.

    `published` are outputs, by name, that are already in the store. `hardware` describes the device
    of this process.
    """
    store = open_store(attempt.store_uri)
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
        },
        metrics=result.metrics,
        provenance={
            **attempt.provenance,
            "code": _code_that_ran(attempt.provenance.get("code")),
            **_surroundings(),
            **(hardware or {}),
        },
    )
    return publish_manifest(store, manifest)


def _code_that_ran(of_driver: JsonValue) -> dict[str, JsonValue]:
    """The version of this process's code. The driver knows the commit; it counts only if both have
    the same source files."""
    version = CodeVersion.model_validate(of_driver) if of_driver is not None else None
    if version is None or version.sha256 != code_sha256():
        version = CodeVersion(sha256=code_sha256())
    return version.model_dump(mode="json")


def _surroundings() -> dict[str, JsonValue]:
    return {
        "finished_at_s": time.time(),
        "host": socket.gethostname(),
        "python": sys.version.split()[0],
        "packages": _versions(),
    }


def _versions() -> dict[str, JsonValue]:
    installed = {dist.name: dist.version for dist in metadata.distributions()}
    return {name: installed[name] for name in PACKAGES if name in installed}
