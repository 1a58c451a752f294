"""What a store holds of a job's finished searches: their Trials, fetched and checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from pydantic import ValidationError

from orchestrator.artifact import Artifact, Manifest
from orchestrator.errors import IntegrityError
from orchestrator.spec import Job, TuneParams
from orchestrator.store.protocol import Store
from orchestrator.store.publish import fetch_artifact
from orchestrator.trials import TRIALS_FILE, Trials

OUTPUT = "trials"


class FoundTrials(NamedTuple):
    """By stage, the trials of its search; and a remark for each search whose trials cannot be told of."""

    trials: Mapping[str, Trials]
    remarks: tuple[str, ...]


def load_trials(job: Job, manifests: Mapping[str, Manifest], store: Store) -> FoundTrials:
    """The trials of each finished search of `job`. Raises StoreError where the store is out of reach."""
    trials: dict[str, Trials] = {}
    remarks: list[str] = []
    for name, stage in job.stages.items():
        if not isinstance(stage.params, TuneParams) or name not in manifests:
            continue
        try:
            trials[name] = _fetch_trials(name, manifests[name], store)
        except IntegrityError as err:  # the report's cells stand all the same
            remarks.append(f"stages.{name}: its trials are passed over: {err}")
    return FoundTrials(trials, tuple(remarks))


def _fetch_trials(stage: str, manifest: Manifest, store: Store) -> Trials:
    """Raises IntegrityError for altered bytes and for what another release published."""
    artifact = manifest.artifacts.get(OUTPUT)
    file = next((file for file in artifact.files if file.path == TRIALS_FILE), None) if artifact else None
    if file is None:
        raise IntegrityError(f"it published no {TRIALS_FILE}")
    with TemporaryDirectory() as folder:
        path = fetch_artifact(store, Artifact(files=(file,)), Path(folder)) / TRIALS_FILE
        try:
            return Trials.model_validate_json(path.read_bytes())
        except ValidationError as err:
            again = f"run again with --force {stage} to make it anew"
            raise IntegrityError(f"its {TRIALS_FILE} is that of another release; {again}") from err
