"""A manifest for tests that need only its Key and the run that made it."""

from __future__ import annotations

from orchestrator.artifact import Manifest


def bare_manifest(key: str, run_id: str) -> Manifest:
    """Return the manifest of a stage `train` without outputs and metrics."""
    return Manifest(
        key=key,
        stage="train",
        kind="count",
        recipe={},
        params={},
        artifacts={},
        metrics=(),
        provenance={"run_id": run_id},
    )
