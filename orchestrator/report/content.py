"""What every format of a report is made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from orchestrator.artifact import Manifest
from orchestrator.history import Histories, StageHistory, StageState
from orchestrator.report.audit import Audits
from orchestrator.report.cells import Cell
from orchestrator.report.lineage import Lineage, make_lineage
from orchestrator.report.notes import Origin
from orchestrator.report.published import PublishedRow
from orchestrator.report.search import Search
from orchestrator.spec import Job


@dataclass(frozen=True)
class ReportContent:
    """The content of a report in any format."""

    job: Job
    manifests: Mapping[str, Manifest]
    cells: tuple[Cell, ...]
    audits: Audits
    searches: tuple[Search, ...]
    origin: Origin
    states: Mapping[str, StageState]
    histories: Histories
    keys: Mapping[str, str]
    """By stage, its Key as last run."""
    details: Mapping[str, Mapping[str, bytes]]
    """By stage, the files of its details, by path."""
    rows: Mapping[str, PublishedRow]
    run_error: str | None = None
    """Why the last run as a whole ended early."""
    remarks: tuple[str, ...] = ()

    @cached_property
    def lineages(self) -> Mapping[str, Lineage]:
        """Where the numbers of each finished stage come from, by stage."""
        stage_of_key = {key: stage for stage, key in self.keys.items()}
        return {
            name: make_lineage(manifest, stage_of_key=stage_of_key, command=self.origin.command)
            for name, manifest in self.manifests.items()
        }

    @property
    def stage_histories(self) -> Mapping[str, StageHistory]:
        """How each stage trained, by stage."""
        stages = self.histories.stages
        return {name: stages[key] for name, key in self.keys.items() if key in stages}
