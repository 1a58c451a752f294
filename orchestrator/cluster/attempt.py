"""An attempt: everything that the workers of one try at a stage need, as a value that pickles."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import JsonValue

from orchestrator.artifact import Artifact, Deviation
from orchestrator.contract import Event, Params
from orchestrator.recipe import recipe_audit
from orchestrator.runs.record import StageEvent
from orchestrator.spec import TUNE, Resources
from orchestrator.store.stage_logs import DEFAULT_LOGS, LogSettings
from orchestrator.store.training import Training

_MAX_NAME_BYTES = 120
"""Limit for a run's name in Ray, before the digits of the Key. Ray uses the name for folders."""


@dataclass(frozen=True)
class Attempt:
    """One try at a stage within a run."""

    stage: str
    number: int
    """Counted from 1."""
    trial: str | None
    """The id of the trial if the stage is a search."""
    kind: str
    entry: str
    key: str
    recipe: Mapping[str, Any]
    params: Params
    """The effective params; for a search, the template of its trials."""
    fingerprint: Callable[[Any], str]
    """The kind's function from params to the digest of their data."""
    stated_data: str | None
    """The digest that the job stated for the data, if it did; the worker checks it."""
    reads: Callable[[Any], Mapping[str, str]]
    """The kind's function from params to the digests of the small files that they name."""
    can_stop: bool
    """Whether the kind checks `should_stop`."""
    seed: int
    resources: Resources
    workers: int
    """The number of workers chosen from the range in `resources`."""
    selectors: tuple[Mapping[str, str], ...]
    """Ray's label selector of each worker."""
    metric: str
    """The kind's first metric. Its value is the score of a checkpoint."""
    keep_best: int
    """The number of checkpoints kept for their score, in addition to the newest."""
    inputs: Mapping[str, Artifact]
    store_uri: str
    training: Training
    """The resume state in the store."""
    provenance: Mapping[str, JsonValue]
    records: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict, repr=False)
    """The contents of the artifacts that the manifest gets in addition to the outputs, by artifact
    and by the name of the file. Ray's dashboard shows the rest of an attempt."""
    logs: LogSettings = DEFAULT_LOGS
    trial_attempt: int | None = None
    """The number of the try at the trial within the run, if this is a trial."""

    @property
    def log_number(self) -> int:
        """The number of the attempt in the name of its log."""
        return self.trial_attempt or self.number

    @property
    def is_forced(self) -> bool:
        """Whether `--force` runs the stage, perhaps because what it published is damaged. So its
        outputs are uploaded even if the store seems to have them."""
        return bool(self.recipe.get("rerun"))

    def origin(self, field: str) -> str | None:
        """The Key of the stage whose output is this input. None for a file from outside the job."""
        key: str | None = self.recipe["inputs"].get(field, {}).get("key")
        return key

    @property
    def needs_group(self) -> bool:
        """Whether Ray Train has to connect the workers. A single worker exchanges no gradients."""
        return self.workers > 1

    @property
    def ray_name(self) -> str:
        """The name in Ray's dashboard: `<job>.<stage>[.<trial>]-<8 digits of the Key>`, at most 120
        bytes before the digits."""
        trial = f".{self.trial}" if self.trial is not None else ""
        name = f"{self.provenance['job']}.{self.stage}{trial}".replace("/", ".")
        short = name.encode()[:_MAX_NAME_BYTES].decode(errors="ignore")
        return f"{short}-{self.key[:8]}"

    def audit(self) -> dict[str, Deviation]:
        """The stage's deviations from the reference recipe. For a search, the deviations that all
        trials share."""
        searched = self.recipe["params"]["space"] if self.kind == TUNE.name else ()
        return recipe_audit(self.params, searched=searched)

    def says(
        self,
        event: Event,
        *,
        lost: str | None = None,
        is_remark: bool = False,
        workers: int | None = None,
        waits_for: str | None = None,
    ) -> StageEvent:
        """Return `event` as a StageEvent of this attempt, at the current time. `lost` is the reason
        why the attempt was lost."""
        return StageEvent(
            self.stage,
            self.number,
            time.time(),
            event,
            trial=self.trial,
            lost=lost,
            is_remark=is_remark,
            workers=workers,
            waits_for=waits_for,
        )
