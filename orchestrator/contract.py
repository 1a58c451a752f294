"""What a pipeline receives and returns, and how the table of kinds describes it. Imports neither
torch nor ray."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple, Protocol, Self

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from orchestrator.artifact import Metric, canonical_json


class Role(Enum):
    """What a field of Params means. A field without a role is part of the Key as it is.

    Put it on the outside of the annotation: `Annotated[str | None, Role.INPUT]`, not
    `Annotated[str, ...] | None`.
    """

    DATA = "data"
    """A path to a data set: made absolute on the driver; the data's fingerprint is in the Key, the
    path is not."""
    INPUT = "input"
    """A Ref `stage.output`: the other stage's Key is in the Key."""
    OUTSIDE_KEY = "outside_key"
    """Changes how fast or how safely a stage runs, never its result: not in the Key."""
    ADDS = "adds"
    """Adds metrics or outputs and changes none of the others: in the Key, but no deviation from a
    recipe."""
    MODEL = "model"
    """What is trained, not how: a model by its published name is a choice, no deviation from a
    recipe."""
    DURATION = "duration"
    """How long it trains: a stage that has less of it, and no other deviation, has a short
    schedule."""

    @property
    def is_in_key(self) -> bool:
        return self not in (Role.DATA, Role.INPUT, Role.OUTSIDE_KEY)


DataDir = Annotated[str, Role.DATA]
Input = Annotated[str, Role.INPUT]


@dataclass(frozen=True)
class Usual:
    """A value of a field that has the same effect as another way to write it."""

    value: JsonValue
    counts_as: JsonValue = None
    """The other way to write it: None, unless said otherwise, which leaves the value to the
    kind."""
    follows: frozenset[str] = frozenset()
    """The fields that determine `value`."""

    def equals(self, other: JsonValue) -> bool:
        """Whether `other` is `value`, but for rounding: 3e-4 and 6e-5 * 80 / 16 are one learning
        rate."""
        if isinstance(self.value, float) and isinstance(other, float):
            return math.isclose(self.value, other)
        return self.value == other


def settled(given: float | None, usual: float) -> float:
    """The number that counts: `usual` also where `given` differs from it by rounding only, as in
    the Key."""
    return usual if given is None or math.isclose(given, usual) else given


class Misfit(NamedTuple):
    """Fields that do not go together: the one to blame, by the steps that lead to it, and what is
    wrong."""

    steps: tuple[str | int, ...]
    message: str


Check = Callable[[], Iterable[Misfit]]
MISFIT = "misfit"
"""The type of pydantic's error for a Misfit."""


class Params(BaseModel):
    """Base of every kind's params: frozen, strict, no unknown fields, no NaN. The docstring of a
    field describes it in the JSON Schema of job files."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        # a job uses one or two of the kinds, and the models of all take 0.3 s to build
        defer_build=True,
    )

    reference: ClassVar[Mapping[str, JsonValue]] = {}
    """What the reference recipe has otherwise than the defaults, by field."""
    choices: ClassVar[frozenset[str]] = frozenset()
    """Fields that say what is trained, not how, though they have a default: no deviation from a
    recipe."""
    fingerprinted: ClassVar[frozenset[str]] = frozenset()
    """All fields that the kind's fingerprint depends on: stages that agree in them share one
    reading of the data. None: each stage reads for itself."""

    @property
    def checking_fields(self) -> frozenset[str]:
        """Fields that only check data or inputs, with which they have one right value: no deviation
        from a recipe."""
        return frozenset()

    def usual(self) -> Mapping[str, Usual]:
        """By field, a value that has the same effect as another way to write it, given the other
        fields."""
        return {}

    def checks(self) -> tuple[Check, ...]:
        """What the fields have to do with each other.

        Each check reads only the fields that it is about: where one of these has a fault of its own
        it is missing from the value, and the others are checked all the same.
        """
        return ()

    def written(self, *names: str) -> str:
        """The first of the fields `names` that was given a value, to be blamed."""
        return next((name for name in names if name in self.model_fields_set), names[0])

    @model_validator(mode="after")
    def _fields_fit(self) -> Self:
        misfits = [misfit for check in self.checks() for misfit in check()]
        if misfits:
            raise ValidationError.from_exception_data(
                type(self).__name__, [_error_of(misfit) for misfit in misfits]
            )
        return self

    @classmethod
    def fields_with(cls, role: Role) -> tuple[str, ...]:
        return tuple(name for name, info in cls.model_fields.items() if role in info.metadata)

    def in_key(self, *, searched: Iterable[str] = ()) -> dict[str, JsonValue]:
        """The params that a Key hashes, as JSON, by their effect: a usual value counts as the other
        way to write it.

        Not where the value follows from a param in `searched` (dotted paths): each sample then has
        its own.
        """
        without = {name for role in Role if not role.is_in_key for name in self.fields_with(role)}
        content = self.model_dump(mode="json", exclude=without)
        sampled = {path.partition(".")[0] for path in searched}
        for name, usual in self.usual().items():
            is_fixed = sampled.isdisjoint({name, *usual.follows})
            if is_fixed and name in content and usual.equals(content[name]):
                content[name] = usual.counts_as
        return content

    def overlay(self, values: Mapping[str, JsonValue]) -> Self:
        """A validated copy with `values`, keyed by dotted path, put in.

        Raises pydantic's ValidationError for a value that does not fit, KeyError for a path that
        leads nowhere.
        """
        content = self.model_dump(mode="json")
        for path, value in values.items():
            *parents, last = path.split(".")
            room: Any = content
            for parent in parents:
                room = room.get(parent) if isinstance(room, dict) else None
            if not isinstance(room, dict):
                raise KeyError(path)
            room[last] = value
        return self.model_validate_json(canonical_json(content))


def _error_of(misfit: Misfit) -> InitErrorDetails:
    error = PydanticCustomError(MISFIT, "{text}", {"text": misfit.message})
    return InitErrorDetails(type=error, loc=misfit.steps, input=None)


@dataclass(frozen=True)
class Event:
    """One line of progress. `done` of `total` is in the stage's own unit (epochs, iterations,
    trials)."""

    text: str
    done: float | None = None
    total: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


class Report(Protocol):
    """Commits progress: every rank calls it, at most once an epoch or interval.

    `metrics` hold `epoch` (counted from 1) and the kind's metrics. `checkpoint_dir` is rank 0's
    folder with all that a later attempt needs to resume (it comes back as `resume_dir`), None on
    the other ranks and where none is due. The folder is handed over: it is uploaded while training
    goes on, and gone afterwards.
    """

    def __call__(self, metrics: Mapping[str, float], checkpoint_dir: Path | None) -> None: ...


@dataclass(frozen=True)
class StageContext:
    """All that a pipeline's entry point gets. It knows no store, no Ray and no other stage."""

    params: Any
    """The kind's Params, searched values put in."""
    inputs: Mapping[str, Path]
    """A fetched and verified folder for each input of the kind, by field name."""
    seed: int
    device: str
    """`cpu` or `cuda:N`, N as this process sees its GPUs."""
    rank: int
    world_size: int
    work_dir: Path
    """An empty folder of this process, on a local disk, gone when the attempt ends."""
    resume_dir: Path | None
    """What the last `report` of an earlier attempt committed, or None for a fresh start."""
    report: Report
    save: Callable[[Path], None]
    """Commits a checkpoint between reports, as `report` does with its `checkpoint_dir`; rank 0
    calls it."""
    should_stop: Callable[[], bool]
    """Whether the stage should write a checkpoint and raise StoppedError: its run is interrupted,
    or its machine is about to leave. Cheap, never blocks; ranks may learn of it at different
    times."""
    emit: Callable[[Event], None]
    """Reports to the user; cheap, never blocks, may lose lines. Only rank 0 is heard."""


@dataclass(frozen=True)
class StageResult:
    """What rank 0 returns (other ranks' results are ignored): `outputs` maps each output's name to
    a folder."""

    outputs: Mapping[str, Path]
    metrics: tuple[Metric, ...]


Entry = Callable[[StageContext], StageResult]

CHECKPOINT = "checkpoint"
"""The output of a kind that holds a finished model, and the one input of its evaluation."""
DETAILS = "details"
"""The output of an evaluation that shows what is behind its metrics."""


@dataclass(frozen=True)
class Evaluation:
    """How a kind measures a finished model of its own: what the kind `evaluate` does for it."""

    entry: str
    """`module:function` with the type Entry. It gets `params`, and `checkpoint` as its only
    input."""
    metrics: Callable[[Any], tuple[str, ...]]
    """Params -> names of what it measures."""
    fingerprint: Callable[[Any], str]
    """Params -> a digest of the data that it reads. Raises DataError as the kind's does."""
    params: type[Params] | None = None
    """The kind's Params with the fields that only its evaluation has; None: it has none of its
    own."""
    outputs: tuple[str, ...] = ()
    takes_file: bool = False
    """Whether the model may be a file from outside the job, which is then all that the folder
    holds."""


@dataclass(frozen=True)
class Kind:
    """A row in the table of kinds."""

    name: str
    version: int
    """Part of the Key: raised when the same params give other results."""
    params: type[Params]
    inputs: Mapping[str, frozenset[str]]
    """For each field of role INPUT, what it may point to, written `kind.output`."""
    outputs: tuple[str, ...]
    metrics: Callable[[Any], tuple[str, ...]]
    """Params -> names of all metrics that a stage's manifest may hold. A search maximises the first
    by default."""
    fingerprint: Callable[[Any], str]
    """Params -> a digest of the data that they name. Raises DataError when it is missing or
    disagrees with them."""
    entry: str | None
    """`module:function` with the type Entry, imported only where the stage runs; None: the cluster
    runs it itself."""
    from_outside: frozenset[str] = frozenset()
    """Fields of role INPUT that may also name a file from outside the job, which is then all that
    the folder holds."""
    misfits: Callable[[Any], Iterable[Misfit]] = lambda params: ()
    """Params -> what keeps a stage from running that an evaluation, which has the same params, can
    do without."""
    reads: Callable[[Any], Mapping[str, str]] = lambda params: {}
    """Params -> for each field that names a small file other than data and inputs, a digest of
    what is read of it. Depends only on fields of role DATA, and raises DataError as
    `fingerprint` does."""
    evaluation: Evaluation | None = None
    """How a finished stage of this kind is measured; None: it is nothing that could be."""
    stops: bool = False
    """Whether the entry heeds `should_stop`: an interrupted run waits for such stages' checkpoints,
    for no others."""
    keep_best: Callable[[Any], int] = lambda params: 0
    """Params -> how many checkpoints are kept for their score, in addition to the newest."""
    less_is_better: frozenset[str] = frozenset()
    """Metrics that no search can mean to maximise."""
    fits_workers: Callable[[Any, int], bool] = lambda params, num_workers: True
    """Params, a number of workers -> whether they can share the work; asked where `workers` is a
    range."""
    evaluates: Kind | None = None
    """The kind whose models are measured, where this is the kind `evaluate`: `params` come from
    its evaluation."""
