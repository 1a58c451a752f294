"""The values that a valid job file is parsed into: Job, Stage, Resources, Expectation."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, PlainSerializer, PlainValidator

from orchestrator.artifact import Ref
from orchestrator.contract import Check, Kind, Misfit, Params
from orchestrator.spec.faults import shown
from orchestrator.spec.kinds.tune import TuneParams

Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""numpy accepts no larger seed."""

_COMPARE = {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt}
_EXPECTATION = re.compile(r"\s*(>=|>|<=|<)\s*([-+]?[0-9]{1,9}(?:\.[0-9]{1,9})?)\s*", re.ASCII)


@dataclass(frozen=True)
class Expectation:
    """The expected value of a metric, written `>= 95`."""

    op: str
    value: float

    @classmethod
    def parse(cls, text: object) -> Self:
        """Parse `>=`, `>`, `<=` or `<` and a number. Raises ValueError for anything else."""
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
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_LABEL_NAME = re.compile(rf"(?:[A-Za-z0-9][A-Za-z0-9.-]{{0,252}}/)?{_LABEL}")
_LABEL_SELECTOR = re.compile(rf"!?{_LABEL}|!?in\({_LABEL}(?:, ?{_LABEL})*\)")
ACCELERATOR_LABEL = "ray.io/accelerator-type"
"""The label that Ray gives each machine with GPUs."""


class Resources(Params):
    """What a stage requests from the cluster. Never part of a Key."""

    workers: Count | tuple[Count, Count] = 1
    """Processes that train together; in a search, per trial. `[min, max]`: as many as fit on the
    cluster."""
    cpus_per_worker: Annotated[int, Field(ge=1)] = 1
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0
    """A fraction shares one GPU; 0 runs on the CPU."""
    backend: Literal["nccl", "gloo"] | None = None
    """How workers exchange gradients; None: nccl on GPUs, gloo on CPUs."""
    memory_gib_per_worker: Annotated[float, Field(ge=0)] = 0
    """Memory that Ray reserves for each worker. 0 reserves none."""
    accelerator: str | None = None
    """The type of the GPUs, such as `H100`: the label `ray.io/accelerator-type` of a machine."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels that a machine must have to run a worker, such as `{zone: a}`. This is Ray's label
    selector: `!a`, `in(a, b)` and `!in(a, b)` are possible, too."""
    max_wait_min: Annotated[float, Field(gt=0)] = 60
    """Minutes that the stage waits for free resources on a shared cluster, or for machines that an
    autoscaler starts, before it fails. After a quarter of it, smaller stages no longer go first."""
    collective_timeout_min: Annotated[float, Field(gt=0)] = 10
    """Minutes that workers wait for each other to exchange gradients before the attempt counts as
    lost."""

    @property
    def memory_bytes_per_worker(self) -> int:
        """Memory per worker in the unit that Ray uses."""
        return round(self.memory_gib_per_worker * 2**30)

    @property
    def selector(self) -> dict[str, str]:
        """Ray's label selector for the machines of the workers."""
        accelerator = {} if self.accelerator is None else {ACCELERATOR_LABEL: self.accelerator}
        return {**self.labels, **accelerator}

    @property
    def worker_range(self) -> range:
        """The allowed numbers of workers in a group."""
        least, most = (
            (self.workers, self.workers) if isinstance(self.workers, int) else self.workers
        )
        return range(least, most + 1)

    def checks(self) -> tuple[Check, ...]:
        return (
            self._least_before_most,
            self._whole_above_one,
            self._accelerator_has_gpus,
            self._selects_labels,
        )

    def _least_before_most(self) -> Iterator[Misfit]:
        if not self.worker_range:
            low, high = self.worker_range.start, self.worker_range.stop - 1
            message = f"workers: minimum {low} exceeds maximum {high}; write [{high}, {low}]"
            yield Misfit(("workers",), message)

    def _whole_above_one(self) -> Iterator[Misfit]:
        if self.gpus_per_worker > 1 and not self.gpus_per_worker.is_integer():
            message = (
                f"gpus_per_worker above 1 must be a whole number, not {self.gpus_per_worker:g}"
            )
            yield Misfit(("gpus_per_worker",), message)

    def _selects_labels(self) -> Iterator[Misfit]:
        for name, wanted in self.labels.items():
            if not (_LABEL_NAME.fullmatch(name) and _LABEL_SELECTOR.fullmatch(wanted)):
                message = (
                    f"{name}: {wanted!r} is not a label selector of Ray; write a, !a, in(a, b) or "
                    "!in(a, b), with letters, digits, '-', '_' and '.'"
                )
                yield Misfit(("labels",), message)

    def _accelerator_has_gpus(self) -> Iterator[Misfit]:
        if self.accelerator is not None and not self.gpus_per_worker:
            message = f"accelerator {self.accelerator} needs gpus_per_worker above 0"
            yield Misfit(("accelerator",), message)


Occasion = Literal["failed", "done", "missed"]
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}", re.ASCII)


def _variable_name(value: object) -> str:
    if not isinstance(value, str) or not _VARIABLE.fullmatch(value):
        # The value is not shown: it may be the URL itself, which is a secret.
        raise ValueError(
            "must be the name of an environment variable such as SLACK_WEBHOOK, which has the "
            "URL; the URL is a secret and does not belong in a job file"
        )
    return value


class Notify(Params):
    """Messages about a run to a chat. Never part of a Key."""

    url_env: Annotated[str, BeforeValidator(_variable_name)]
    """The name of the environment variable with the URL of the webhook, such as `SLACK_WEBHOOK`.
    The URL is a secret, so it is not in the job."""
    # Not strict: behind the job's check of the whole mapping, pydantic gets a list, not a tuple.
    on: Annotated[tuple[Occasion, ...], Field(strict=False)] = ("failed", "done", "missed")
    """When to send a message. `failed`: at once when a stage fails, and at the end of a run with an
    error. `done`: the run ended well. `missed`: it ended and an expectation is missed."""
    format: Literal["slack", "teams"] = "slack"
    """`slack` is for Slack and Mattermost, `teams` for a workflow of Microsoft Teams."""

    def checks(self) -> tuple[Check, ...]:
        return (self._has_occasions,)

    def _has_occasions(self) -> Iterator[Misfit]:
        if not self.on:
            yield Misfit(("on",), "must not be empty; remove `notify` to send no messages")


_KMS_KEY = re.compile(
    r"arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:(key|alias)/[A-Za-z0-9/_-]+"
    r"|alias/[A-Za-z0-9/_-]+|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|mrk-[0-9a-f]{32}",
    re.ASCII,
)


def _kms_key(value: object) -> str | None:
    if value is not None and not (isinstance(value, str) and _KMS_KEY.fullmatch(value)):
        # The value is not shown: it may be a key itself, which is a secret.
        raise ValueError(
            "must be the id, the ARN or the alias of a key in AWS KMS, such as alias/NAME or "
            "arn:aws:kms:REGION:ACCOUNT:key/ID"
        )
    return value


class StoreOptions(Params):
    """How a store in S3 keeps what is written. Never part of a Key."""

    sse: Literal["AES256", "aws:kms", "aws:kms:dsse"]
    """Encryption by the server. `AES256`: with keys of S3; `aws:kms`: with a key in AWS KMS;
    `aws:kms:dsse`: the same, in two layers."""
    kms_key: Annotated[str | None, BeforeValidator(_kms_key)] = None
    """The id, the ARN or the alias of the key in AWS KMS. Null: the account's default key."""

    def checks(self) -> tuple[Check, ...]:
        return (self._key_needs_kms,)

    def _key_needs_kms(self) -> Iterator[Misfit]:
        if self.kms_key is not None and self.sse == "AES256":
            yield Misfit(("kms_key",), "needs `sse: aws:kms`; with AES256, S3 has its own keys")


@dataclass(frozen=True)
class Stage:
    """A validated stage of a job. `kind.params` is the type of `params`."""

    name: str
    kind: Kind
    params: Any
    seed: int
    resources: Resources
    expect: Mapping[str, Expectation]
    params_from: Ref | None
    """The search whose best params override `params` before the stage runs."""
    inputs: Mapping[str, Ref]
    """The outputs that the stage reads, by field of role INPUT. In a search, the inputs of its
    template, which the trials read."""
    files: Mapping[str, str]
    """Files from outside the job that are read instead of outputs, by field of role INPUT: an
    absolute path or `s3://BUCKET/PREFIX/NAME`."""
    data_fingerprint: str | None = None
    """The fingerprint of the data that the job file states. None: computed while planning."""
    published: str | None = None
    """The id of the published row that the report compares the stage with. Like `expect`, it is not
    part of the Key."""

    @property
    def search(self) -> TuneParams | None:
        """The params of a search, or None for any other stage."""
        return self.params if isinstance(self.params, TuneParams) else None

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the stages that must finish before this one.

        A search's `of` is not among them: the search uses only its params.
        """
        refs = [*self.inputs.values(), *([self.params_from] if self.params_from else [])]
        return tuple(dict.fromkeys(ref.stage for ref in refs))

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that the stage reports. For a search, the one that it optimises."""
        return self.kind.metrics(self.params)

    @property
    def worker_counts(self) -> tuple[int, ...]:
        """The numbers of workers that fit the stage's params, ascending. Empty if none fits."""
        return usable_counts(self.kind, self.params, self.resources)


def usable_counts(kind: Kind, params: Any, resources: Resources) -> tuple[int, ...]:
    """The numbers of workers that fit `params`, ascending.

    A single requested number is always returned: the pipeline reports it if it does not fit.
    """
    if isinstance(resources.workers, int):
        return (resources.workers,)
    if isinstance(params, TuneParams):
        return ()  # with_workers_of() replaced the range by one number if one fits the trials
    return tuple(count for count in resources.worker_range if kind.fits_workers(params, count))


@dataclass(frozen=True)
class Source:
    """What a job was made from, as the user wrote it."""

    files: tuple[bytes, ...]
    """The content of the job file, and of the files that it extends one over the other."""
    overrides: tuple[str, ...] = ()
    """The values of `--set`."""


@dataclass(frozen=True)
class Job:
    """A validated job file. Paths are absolute. `stages` is keyed by name, in the order of the
    file."""

    name: str
    store: str
    """An absolute folder, or `s3://BUCKET/PREFIX`."""
    seed: int
    stages: Mapping[str, Stage]
    notify: Notify | None = None
    """Where to send messages about a run. None: nowhere."""
    store_options: StoreOptions | None = None
    """How the store keeps what is written. None: as the bucket's own settings say."""
    source: Source | None = field(default=None, compare=False, repr=False)
    """None for a job that was not read from a file."""


def template_params(job: Job, stage: Stage) -> Any:
    """The params of a search's trials before a value is sampled: the template's params with
    `overrides` applied."""
    assert stage.search is not None, f"{stage.name} is not a search"
    return job.stages[stage.search.of].params.overlay(stage.search.overrides)
