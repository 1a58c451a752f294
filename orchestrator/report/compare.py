"""Results of several jobs -> what they measured side by side, and what differs. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from pydantic import JsonValue

from orchestrator.artifact import Manifest, Metric, digest_of
from orchestrator.report.lineage import code_text


@dataclass(frozen=True)
class Measured:
    """A value of one job: of one stage, or the mean over stages that differ only in their seed."""

    value: float
    spread: float | None = None
    """The sample standard deviation over seeds; None for a single stage."""
    num_seeds: int = 1

    @property
    def text(self) -> str:
        if self.spread is None:
            return f"{self.value:.2f}"
        return f"{self.value:.2f} ± {self.spread:.2f} (n={self.num_seeds})"


@dataclass(frozen=True)
class ComparedMetric:
    """A metric of one stage in each job; None where a job does not have it."""

    stage: str
    metric: str
    unit: str
    values: tuple[Measured | None, ...]

    @property
    def deltas(self) -> tuple[float | None, ...]:
        """Each value less the first job's."""
        first = self.values[0]
        return tuple(
            None if first is None or one is None else one.value - first.value for one in self.values
        )


@dataclass(frozen=True)
class Difference:
    """Something of a stage that is not the same in all jobs: a param, the code, the data."""

    stage: str
    what: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    jobs: tuple[str, ...]
    metrics: tuple[ComparedMetric, ...]
    differences: tuple[Difference, ...]


def compare(jobs: Sequence[tuple[str, Mapping[str, Manifest]]]) -> Comparison:
    """Compare the jobs, each a name and its manifests by stage, with the first one."""
    names = tuple(name for name, _ in jobs)
    manifests = [of_job for _, of_job in jobs]
    stages = dict.fromkeys(stage for of_job in manifests for stage in of_job)
    single = [
        row
        for stage in stages
        for row in _rows(stage, [_metrics(of_job.get(stage)) for of_job in manifests])
    ]
    groups = [_over_seeds(of_job) for of_job in manifests]
    grouped = [
        row
        for group in dict.fromkeys(name for of_job in groups for name in of_job)
        for row in _rows(group, [of_job.get(group, {}) for of_job in groups])
    ]
    differences = [
        difference
        for stage in stages
        for difference in _differences(stage, [of_job.get(stage) for of_job in manifests])
    ]
    return Comparison(names, (*single, *grouped), tuple(differences))


_Values = Mapping[tuple[str, str], Measured]
"""By metric and unit."""


def _metrics(manifest: Manifest | None) -> _Values:
    metrics = manifest.metrics if manifest else ()
    return {(metric.name, metric.unit): Measured(metric.value) for metric in metrics}


def _over_seeds(manifests: Mapping[str, Manifest]) -> dict[str, _Values]:
    """Means over the cells of a matrix that differ only in their seed, by a name such as
    `coco/*`."""
    alike: dict[tuple[str, str], list[Manifest]] = {}
    for stage, manifest in manifests.items():
        matrix, slash, _ = stage.partition("/")
        recipe = {name: value for name, value in manifest.recipe.items() if name != "seed"}
        if slash and recipe:
            alike.setdefault((matrix, digest_of(recipe)), []).append(manifest)
    repeated = {group: found for group, found in alike.items() if len(found) > 1}
    counts = {matrix: sum(name == matrix for name, _ in repeated) for matrix, _ in repeated}
    return {
        f"{matrix}/*" if counts[matrix] == 1 else f"{found[0].stage} and alike": _means(found)
        for (matrix, _), found in repeated.items()
    }


def _means(manifests: Sequence[Manifest]) -> _Values:
    values: dict[tuple[str, str], list[float]] = {}
    for metric in (metric for manifest in manifests for metric in manifest.metrics):
        values.setdefault(_name_of(metric), []).append(metric.value)
    return {
        name: Measured(mean(found), stdev(found), len(found))
        for name, found in values.items()
        if len(found) > 1
    }


def _name_of(metric: Metric) -> tuple[str, str]:
    return metric.name, metric.unit


def _rows(stage: str, columns: Sequence[_Values]) -> list[ComparedMetric]:
    names = dict.fromkeys(name for column in columns for name in column)
    return [
        ComparedMetric(stage, metric, unit, tuple(column.get((metric, unit)) for column in columns))
        for metric, unit in names
    ]


def _differences(stage: str, manifests: Sequence[Manifest | None]) -> list[Difference]:
    """What differs between the jobs that have the stage."""
    if sum(manifest is not None for manifest in manifests) < 2:  # noqa: PLR2004 - a pair
        return []
    facts = [_facts(manifest) if manifest else {} for manifest in manifests]
    found = []
    for what in dict.fromkeys(name for of_job in facts for name in of_job):
        shown = tuple(of_job.get(what, "-") for of_job in facts)
        present = {of_job[what] for of_job in facts if what in of_job}
        if len(present) > 1:
            found.append(Difference(stage, what, shown))
    return found


def _facts(manifest: Manifest) -> dict[str, str]:
    """What determines the result, in words."""
    return {
        **{name: _shown(value) for name, value in manifest.params.items()},
        "seed": _shown(manifest.recipe.get("seed")),
        "code": code_text(manifest.provenance.get("code")),
        "data": str(manifest.recipe.get("data") or "none")[:12],
    }


def _shown(value: JsonValue) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
