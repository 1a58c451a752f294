"""Reads from a store which of its parts need which others."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from pydantic import ValidationError

from orchestrator.artifact import Artifact, Manifest
from orchestrator.artifacts.inventory import Inventory
from orchestrator.artifacts.lineage import input_keys, outside_sha256s
from orchestrator.artifacts.pins import pinned_keys
from orchestrator.runs.last_run import load_last_run
from orchestrator.store.lease import find_owner
from orchestrator.store.marks import NameList
from orchestrator.store.outside import INPUTS
from orchestrator.store.protocol import Entry, Store
from orchestrator.store.publish import (
    MANIFESTS,
    blob_name,
    key_of_manifest,
    load_manifest,
    manifest_name,
    training_name,
)

RESULTS, RESUME_STATE, RUNS, BLOBS = "results", "resume state", "runs", "blobs"

DAMAGED_LEASE_S = 3600.0
"""How long a lease counts whose file cannot be read. Longer than runs choose."""

_TRIAL_LOG = re.compile(r"train/[^/]+/trials/[^/]+/trial[^/]*\.json")
_TRAINING_RUN = re.compile(r"train/[^/]+/runs/([^/]+)")
_BLOB = re.compile(r"blobs/sha256/[0-9a-f]{2}/[0-9a-f]{64}")


def read_manifests(
    store: Store, inventory: Inventory, *, is_new: Callable[[Entry], bool] | None = None
) -> None:
    """Note what each manifest refers to: blobs, runs, and the manifests of its inputs.

    Raises IntegrityError for a damaged one, because nobody knows what it refers to. With `is_new`,
    only the entries for which it is true; these stay, whatever was chosen before.
    """
    for entry in store.entries(MANIFESTS):
        if (is_new and not is_new(entry)) or not entry.name.endswith(".json"):
            continue
        manifest = load_manifest(store, key_of_manifest(entry.name))
        if manifest is None:  # deleted since it was listed
            continue
        inventory.add(RESULTS, entry.name, size=entry.size, age_s=entry.age_s)
        inventory.refer(RESULTS, entry.name, references(manifest))
        if is_new:
            inventory.keep(RESULTS, entry.name)


def read_resume_state(
    store: Store, inventory: Inventory, *, is_new: Callable[[Entry], bool] | None = None
) -> None:
    """Note what the resume state of each Key refers to: its runs, blobs of finished trials, and
    blobs from outside the job."""
    for entry in store.entries("train"):
        if is_new and not is_new(entry):
            continue
        training = "/".join(entry.name.split("/")[:2])
        inventory.add(RESUME_STATE, training, size=entry.size, age_s=entry.age_s)
        if is_new:
            inventory.keep(RESUME_STATE, training)
        if run := _TRAINING_RUN.fullmatch(entry.name):
            inventory.refer(RESUME_STATE, training, [f"runs/{run[1]}"])
        if entry.name == f"{training}/{INPUTS}":
            inventory.refer(RESUME_STATE, training, _blobs_of_inputs(store.read(entry.name)))
        if _TRIAL_LOG.fullmatch(entry.name):
            inventory.refer(RESUME_STATE, training, _blobs_of_trial(store.read(entry.name)))


def read_roots(store: Store, inventory: Inventory) -> None:
    """Note what users refer to: the last run of each job, and pins."""
    for entry in store.entries("jobs"):
        if not entry.name.endswith("/latest.json"):
            continue
        job = entry.name.removeprefix("jobs/").removesuffix("/latest.json")
        last = load_last_run(store, job)
        if last is not None:
            inventory.add_root(f"runs/{last.run_id}")
            for stage in last.stages.values():
                inventory.add_root(manifest_name(stage.key))
    for key in pinned_keys(store):
        inventory.add_root(manifest_name(key))


def read_runs(store: Store, inventory: Inventory) -> None:
    for entry in store.entries("runs"):
        run = "/".join(entry.name.split("/")[:2])
        inventory.add(RUNS, run, size=entry.size, age_s=entry.age_s)


def read_blobs(store: Store, inventory: Inventory, *, least_age_s: float) -> None:
    """Note the old blobs that nothing needs. The others would only fill the disk."""
    for entry in store.entries("blobs"):
        is_blob = _BLOB.fullmatch(entry.name) is not None
        if is_blob and entry.age_s >= least_age_s and not inventory.is_needed(entry.name):
            inventory.add(BLOBS, entry.name, size=entry.size, age_s=entry.age_s)


def references(manifest: Manifest) -> set[str]:
    """Return the names of everything in the store that a manifest refers to."""
    files = (file for artifact in manifest.artifacts.values() for file in artifact.files)
    return {
        *(blob_name(file.sha256) for file in files),
        *(blob_name(sha256) for sha256 in outside_sha256s(manifest)),
        *(f"runs/{run_id}" for run_id in runs_of_manifest(manifest)),
        *(manifest_name(key) for key in input_keys(manifest)),
    }


def runs_of_manifest(manifest: Manifest) -> tuple[str, ...]:
    """Return the ids of the runs that made a result, without duplicates."""
    named = manifest.provenance.get("runs")
    runs = [*(named if isinstance(named, list) else []), manifest.provenance.get("run_id")]
    return tuple(dict.fromkeys(run for run in runs if isinstance(run, str) and run))


def is_leased(store: Store, key: str) -> bool:
    """Whether a run works on the stage with this Key."""
    owner = find_owner(store, key)
    if owner is None:
        return False
    if owner.lease is None:
        return owner.age_s < DAMAGED_LEASE_S
    return owner.lease.state == "held" and not owner.is_expired


def key_of_part(kind: str, name: str) -> str | None:
    """Return the Key that a manifest or resume state belongs to; None for other kinds."""
    if kind == RESULTS:
        return key_of_manifest(name)
    return name.removeprefix(training_name("")) if kind == RESUME_STATE else None


def _blobs_of_inputs(content: bytes | None) -> tuple[str, ...]:
    """The blobs from outside the job. A stage that resumes writes a damaged list again."""
    try:
        return NameList.model_validate_json(content or b"").names
    except ValidationError:
        return ()


def _blobs_of_trial(content: bytes | None) -> list[str]:
    """The blobs of a trial's model. A damaged log has none: a search does not read it either."""
    try:
        document = json.loads(content or b"{}")
        checkpoint = Artifact.model_validate(document["checkpoint"])
    except (ValueError, TypeError, KeyError, ValidationError):
        return []
    return [blob_name(file.sha256) for file in checkpoint.files]
