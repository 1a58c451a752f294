"""An attempt: all that the workers of one try at a stage need to know, as a value that pickles."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue

from orchestrator.artifact import Artifact, Deviation
from orchestrator.contract import Event, Params
from orchestrator.recipe import recipe_audit
from orchestrator.runs.record import StageEvent
from orchestrator.spec import TUNE, Resources

_MAX_NAME_BYTES = 120
"""Limit for a run's name in Ray, before the digits of the Key. Ray makes folders of it."""


@dataclass(frozen=True)
class Attempt:
    """One try at a stage within a run."""

    stage: str
    number: int
    """Counted from 1."""
    trial: str | None
    """The id of the trial, where the stage is a search."""
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
    reads: Callable[[Any], Mapping[str, str]]
    """Params -> digests of the small files that they also name, as the kind has it."""
    seed: int
    resources: Resources
    workers: int
    """How many the group has, of those that `resources` leave open."""
    metric: str
    """The kind's first, whose value is a checkpoint's score."""
    keep_best: int
    """How many checkpoints are kept for their score, in addition to the newest."""
    inputs: Mapping[str, Artifact]
    store_uri: str
    training: str
    """Where in the store the resume state is."""
    provenance: Mapping[str, JsonValue]

    @property
    def needs_group(self) -> bool:
        """Whether Ray Train has to connect its workers: one worker has nobody to exchange gradients
        with."""
        return self.workers > 1

    @property
    def ray_name(self) -> str:
        """The name in Ray's dashboard: `<job>.<stage>-<8 digits of the Key>`, at most 120 bytes
        before the digits."""
        name = f"{self.provenance['job']}.{self.stage}".replace("/", ".")
        short = name.encode()[:_MAX_NAME_BYTES].decode(errors="ignore")
        return f"{short}-{self.key[:8]}"

    def audit(self) -> dict[str, Deviation]:
        """What the stage has otherwise than the reference recipe; of a search, what all its trials
        have so."""
        searched = self.recipe["params"]["space"] if self.kind == TUNE.name else ()
        return recipe_audit(self.params, searched=searched)

    def says(self, event: Event, *, lost: str | None = None, is_remark: bool = False) -> StageEvent:
        """`event`, now, as one of this attempt; `lost` is the reason why the attempt is lost."""
        return StageEvent(
            self.stage,
            self.number,
            time.time(),
            event,
            trial=self.trial,
            lost=lost,
            is_remark=is_remark,
        )
