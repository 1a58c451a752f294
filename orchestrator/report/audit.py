"""The recipe audit: how each stage differs from the reference recipe of its kind. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.artifact import Deviation, Manifest
from orchestrator.contract import CHECKPOINT
from orchestrator.report.deviations import deviation_text
from orchestrator.spec import Job, Stage

Audits = Mapping[str, Mapping[str, Deviation]]
"""The deviations of each stage, by stage and param."""


def audits_of(job: Job, manifests: Mapping[str, Manifest]) -> Audits:
    """Return the audit of each stage whose manifest has one, in the job's order.

    An evaluation trains nothing, so its audit lists only deviations that the measured stage does
    not have.
    """
    audits: dict[str, Mapping[str, Deviation]] = {}
    for name, stage in job.stages.items():
        recorded = _recorded(name, manifests)
        if recorded is None:
            continue
        own = recorded if stage.kind.evaluates is None else _own(stage, recorded, manifests)
        if own or stage.kind.evaluates is None:
            audits[name] = own
    return audits


def audit_lines(audits: Audits) -> tuple[str, ...]:
    """Return a line per stage, such as `pretrain: epochs 10 instead of 300; batch_size 32 instead
    of 1024`."""
    return tuple(f"{stage}: {'; '.join(audit_texts(one))}" for stage, one in audits.items())


def audit_texts(deviations: Mapping[str, Deviation]) -> list[str]:
    """Return a text for each deviation, such as `epochs 10 instead of 300`."""
    texts = [deviation_text(name, deviation) for name, deviation in deviations.items()]
    return texts or ["as in the reference recipe"]


def _recorded(name: str, manifests: Mapping[str, Manifest]) -> Mapping[str, Deviation] | None:
    return manifests[name].recipe_audit if name in manifests else None


def _own(
    stage: Stage, recorded: Mapping[str, Deviation], manifests: Mapping[str, Manifest]
) -> Mapping[str, Deviation]:
    ref = stage.inputs.get(CHECKPOINT)
    measured = (_recorded(ref.stage, manifests) if ref else None) or {}
    return {
        name: deviation for name, deviation in recorded.items() if measured.get(name) != deviation
    }
