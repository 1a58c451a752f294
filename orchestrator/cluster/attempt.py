"""An attempt: all that the workers of one try at a stage need to know, as a value that pickles."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue

from orchestrator.artifact import Artifact
from orchestrator.contract import Params
from orchestrator.spec import Resources


@dataclass(frozen=True)
class Attempt:
    """One try at a stage within a run."""

    stage: str
    kind: str
    entry: str
    key: str
    recipe: Mapping[str, Any]
    params: Params
    """The effective params; for a search, the template of its trials."""
    fingerprint: Callable[[Any], str]
    """Params -> digest of the data that they name, as the kind has it."""
    stated_data: str | None
    """What that digest has to be, where the plan took the job's word for it."""
    seed: int
    resources: Resources
    inputs: Mapping[str, Artifact]
    store_uri: str
    training: str
    """Where in the store the resume state is."""
    provenance: Mapping[str, JsonValue]
