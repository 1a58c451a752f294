"""Find the deviations that keep a stage from being a reproduction of a published row. Pure.

The defaults of a kind's params are the reference recipe: a stage is compared with these and with
the recipe of its row. What cannot be verified counts as a deviation.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from pydantic import JsonValue

from orchestrator.artifact import Deviation, Manifest
from orchestrator.contract import CHECKPOINT, Role
from orchestrator.fingerprint import searched_names
from orchestrator.recipe import param_deviations
from orchestrator.report.published import PublishedRow
from orchestrator.spec import Job, Stage
from orchestrator.spec.faults import cut


class Reason(StrEnum):
    """The kind of a deviation. A label lists them in this order."""

    OTHER_MODEL = "other model"
    OTHER_RECIPE = "other recipe"
    SHORT_SCHEDULE = "short schedule"
    OTHER_DATA = "other data"


@dataclass(frozen=True)
class PublishedDeviation:
    """One difference from the published row, such as `epochs 10 instead of 300`."""

    reason: Reason
    text: str


def find_deviations(
    job: Job,
    stage: Stage,
    row: PublishedRow,
    *,
    manifests: Mapping[str, Manifest],
    rows: Mapping[str, PublishedRow],
) -> tuple[PublishedDeviation, ...]:
    """Return all differences of `stage` from `row`, and of the stages that it needs from the rows
    that `row` builds on.

    A stage without a manifest is compared only by its recipe.
    """
    measured = manifests if stage.name in manifests else None
    return tuple(_deviations(job, stage, row, measured, rows))


def label_of(deviations: tuple[PublishedDeviation, ...]) -> str | None:
    """Return the reasons, each once, such as `other recipe, other data`, or None for a
    reproduction."""
    found = {deviation.reason for deviation in deviations}
    return ", ".join(reason for reason in Reason if reason in found) or None


def deviation_text(name: str, deviation: Deviation) -> str:
    """Return text such as `epochs 10 instead of 300`."""
    return f"{name} {_words(deviation.used)} instead of {_words(deviation.reference)}"


def _deviations(
    job: Job,
    stage: Stage,
    row: PublishedRow,
    manifests: Mapping[str, Manifest] | None,
    rows: Mapping[str, PublishedRow],
) -> Iterator[PublishedDeviation]:
    if stage.kind.evaluates is not None:
        yield from _of_evaluation(job, stage, row, manifests, rows)
        return
    if stage.kind.name != row.kind:
        yield PublishedDeviation(Reason.OTHER_RECIPE, f"{stage.kind.name} instead of {row.kind}")
        return
    yield from _own(job, stage, row)
    if manifests is not None:
        yield from _of_data(manifests.get(stage.name), row)
    for field in dict.fromkeys([*row.inputs, *stage.inputs, *stage.files]):
        ref, followed = stage.inputs.get(field), row.inputs.get(field)
        if ref is None:
            text = (
                f"{field} from outside the job"
                if getattr(stage.params, field, None)
                else f"no {field}"
            )
            yield PublishedDeviation(Reason.OTHER_RECIPE, text)
        elif followed is None:
            yield PublishedDeviation(Reason.OTHER_RECIPE, f"{field} {ref}, which was not published")
        else:
            yield from _inherited(job, job.stages[ref.stage], rows[followed], manifests, rows)


def _of_evaluation(
    job: Job,
    stage: Stage,
    row: PublishedRow,
    manifests: Mapping[str, Manifest] | None,
    rows: Mapping[str, PublishedRow],
) -> Iterator[PublishedDeviation]:
    """Yield the deviations of the measured stage, then the deviations that only the evaluation
    has."""
    own = list(_own(job, stage, row))
    ref = stage.inputs.get(CHECKPOINT)
    if ref is None:
        yield PublishedDeviation(Reason.OTHER_RECIPE, f"{CHECKPOINT} from outside the job")
    else:
        measured = job.stages[ref.stage]
        yield from _inherited(job, measured, row, manifests, rows)
        shared = {deviation.text for deviation in _own(job, measured, row)}
        own = [deviation for deviation in own if deviation.text not in shared]
    yield from own
    if manifests is not None:
        yield from _of_data(manifests.get(stage.name), row)


def _inherited(
    job: Job,
    stage: Stage,
    row: PublishedRow,
    manifests: Mapping[str, Manifest] | None,
    rows: Mapping[str, PublishedRow],
) -> Iterator[PublishedDeviation]:
    """Yield the deviations of a stage that another one builds on, each with the stage's name."""
    for deviation in _deviations(job, stage, row, manifests, rows):
        yield replace(deviation, text=f"{stage.name}: {deviation.text}")


def _own(job: Job, stage: Stage, row: PublishedRow) -> Iterator[PublishedDeviation]:
    """Yield the differences in the stage's own params. They are `short schedule` only if nothing
    else differs."""
    searched = searched_names(job, stage)
    changed = {
        name: deviation
        for name, deviation in param_deviations(stage.params, row.recipe, searched=searched).items()
        if name not in searched
    }
    models, durations = (stage.params.fields_with(role) for role in (Role.MODEL, Role.DURATION))
    is_only_short = not searched and changed.keys() <= {*models, *durations}
    for name, deviation in changed.items():
        text = deviation_text(name, deviation)
        if name in models:
            yield PublishedDeviation(Reason.OTHER_MODEL, text)
        elif is_only_short and _is_lower(deviation.used, deviation.reference):
            yield PublishedDeviation(Reason.SHORT_SCHEDULE, text)
        else:
            yield PublishedDeviation(Reason.OTHER_RECIPE, text)
    yield from (PublishedDeviation(Reason.OTHER_RECIPE, f"{name} searched") for name in searched)


def _of_data(manifest: Manifest | None, row: PublishedRow) -> Iterator[PublishedDeviation]:
    if manifest is None:
        yield PublishedDeviation(
            Reason.OTHER_DATA, "no manifest with the number of val images that it was measured on"
        )
        return
    scores = [
        metric for metric in manifest.metrics if metric.name in row.metrics and metric.unit == "%"
    ]
    counts = {metric.num_samples for metric in scores}
    if counts != {row.num_samples}:
        seen = " and ".join(_words(count) for count in sorted(counts, key=lambda count: count or 0))
        yield PublishedDeviation(
            Reason.OTHER_DATA, f"{seen or 'no'} val images instead of {row.num_samples}"
        )


def _is_lower(used: JsonValue, published: JsonValue) -> bool:
    return isinstance(used, int | float) and isinstance(published, int | float) and used < published


def _words(value: JsonValue) -> str:
    return cut(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
