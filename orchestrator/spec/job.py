"""The values that a valid job file becomes: Job, Stage, Resources, Expectation."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PlainSerializer, PlainValidator

from orchestrator.artifact import Ref
from orchestrator.contract import Check, Kind, Misfit, Params
from orchestrator.spec.faults import shown
from orchestrator.spec.kinds.tune import TuneParams

Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""numpy takes no larger one."""

_COMPARE = {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt}
_EXPECTATION = re.compile(r"\s*(>=|>|<=|<)\s*([-+]?[0-9]{1,9}(?:\.[0-9]{1,9})?)\s*", re.ASCII)


@dataclass(frozen=True)
class Expectation:
    """What a metric should come to, written `>= 95`."""

    op: str
    value: float

    @classmethod
    def parse(cls, text: object) -> Self:
        """Raises ValueError for anything else than `>=`, `>`, `<=` or `<` and a number."""
        match = _EXPECTATION.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise ValueError(f"must be a comparison in quotes such as '>= 95', not {shown(text)}")
        return cls(match[1], float(match[2]))

    def is_met_by(self, measured: float) -> bool:
        return bool(_COMPARE[self.op](measured, self.value))

    def __str__(self) -> str:
        return f"{self.op} {self.value:g}"


def _expectation(value: object) -> Expectation:
    return value if isinstance(value, Expectation) else Expectation.parse(value)


ExpectationText = Annotated[
    Expectation,
    PlainValidator(_expectation, json_schema_input_type=str),
    PlainSerializer(str, return_type=str),
]


Count = Annotated[int, Field(ge=1)]


class Resources(Params):
    """What a stage asks of the cluster; never part of a Key."""

    workers: Count | tuple[Count, Count] = 1
    """Processes that train together (of a search: in each trial), or `[least, most]`: as many as
    there is room for."""
    cpus_per_worker: Annotated[int, Field(ge=1)] = 1
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0
    """A fraction shares one GPU; 0 runs on the CPU."""
    backend: Literal["nccl", "gloo"] | None = None
    """How workers exchange gradients; None: nccl on GPUs, gloo on CPUs."""
    memory_gib_per_worker: Annotated[float, Field(ge=0)] = 0
    """Memory that the cluster sets aside for a worker; 0 asks for none in particular."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels that a machine must have to hold a worker, such as `{accelerator-type: H100}`; Ray's
    label selector."""
    max_wait_min: Annotated[float, Field(gt=0)] = 60
    """Minutes that the stage waits for room on a cluster which others use too, before it fails."""
    collective_timeout_min: Annotated[float, Field(gt=0)] = 10
    """Minutes that workers wait for each other in an exchange of gradients before the attempt
    counts as lost."""

    @property
    def memory_bytes_per_worker(self) -> int:
        """As Ray counts memory."""
        return round(self.memory_gib_per_worker * 2**30)

    @property
    def worker_range(self) -> range:
        """The numbers of workers that a group may have."""
        least, most = (
            (self.workers, self.workers) if isinstance(self.workers, int) else self.workers
        )
        return range(least, most + 1)

    def checks(self) -> tuple[Check, ...]:
        return (self._least_before_most, self._whole_above_one)

    def _least_before_most(self) -> Iterator[Misfit]:
        if not self.worker_range:
            message = (
                f"workers {shown(self.workers)}: its first number, the least, exceeds its second"
            )
            yield Misfit(("workers",), message)

    def _whole_above_one(self) -> Iterator[Misfit]:
        if self.gpus_per_worker > 1 and not self.gpus_per_worker.is_integer():
            message = (
                f"gpus_per_worker must be a whole number above 1, not {self.gpus_per_worker:g}"
            )
            yield Misfit(("gpus_per_worker",), message)


@dataclass(frozen=True)
class Stage:
    """A node of the job as written, checked. `kind.params` is the type of `params`."""

    name: str
    kind: Kind
    params: Any
    seed: int
    resources: Resources
    expect: Mapping[str, Expectation]
    params_from: Ref | None
    """The search whose best params go over `params` before the stage runs."""
    inputs: Mapping[str, Ref]
    """By field of role INPUT; in a search, the inputs of its template, which its trials read."""
    files: Mapping[str, str]
    """Likewise, where a file from outside the job is read instead: an absolute path or
    `s3://BUCKET/PREFIX/NAME`."""
    data_fingerprint: str | None = None
    """What the data are stated to be; None: they are looked at while planning."""
    published: str | None = None
    """The id of the published row that the report compares the stage with; like `expect`, not part
    of the Key."""

    @property
    def search(self) -> TuneParams | None:
        """The params of a search; None for any other stage."""
        return self.params if isinstance(self.params, TuneParams) else None

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the stages that come before this one. A search's `of` is none of them: it lends
        its params only."""
        refs = [*self.inputs.values(), *([self.params_from] if self.params_from else [])]
        return tuple(dict.fromkeys(ref.stage for ref in refs))

    @property
    def metrics(self) -> tuple[str, ...]:
        """What the stage reports; of a search, the metric that it maximises."""
        return self.kind.metrics(self.params)

    @property
    def worker_counts(self) -> tuple[int, ...]:
        """How many workers a group of the stage may have, ascending; empty where its params suit no
        such number."""
        return usable_counts(self.kind, self.params, self.resources)


def usable_counts(kind: Kind, params: Any, resources: Resources) -> tuple[int, ...]:
    """The numbers of workers that a group may have, ascending. A single number is kept: its misfit
    is for the pipeline to report."""
    if isinstance(resources.workers, int):
        return (resources.workers,)
    if isinstance(params, TuneParams):
        return ()  # a search's range has been made one number, where one suits its trials
    return tuple(count for count in resources.worker_range if kind.fits_workers(params, count))


@dataclass(frozen=True)
class Job:
    """A validated job file. Paths are absolute, names of stages are keys in the order of the
    file."""

    name: str
    store: str
    """An absolute folder, or `s3://BUCKET/PREFIX`."""
    seed: int
    stages: Mapping[str, Stage]


def template_params(job: Job, stage: Stage) -> Any:
    """The params of a search's trials before any value is sampled: its target's, `overrides` put
    in."""
    assert stage.search is not None, f"{stage.name} is no search"
    return job.stages[stage.search.of].params.overlay(stage.search.overrides)
