"""The interface of pipelines: what they receive and return, and how a Kind describes them. Imports
neither torch nor ray."""

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
    """The meaning of a field of Params. A field without a role is part of the Key unchanged.

    Put it on the outside of the annotation: `Annotated[str | None, Role.INPUT]`, not
    `Annotated[str, ...] | None`.
    """

    DATA = "data"
    """The path of a data set. The driver makes it absolute. The Key has the data's fingerprint, not
    the path."""
    INPUT = "input"
    """A Ref `stage.output`. The Key has the other stage's Key."""
    OUTSIDE_KEY = "outside_key"
    """Changes how fast or how safely a stage runs, never its result. Not in the Key."""
    ADDS = "adds"
    """Adds metrics or outputs and changes none of the others. In the Key, but not a deviation from
    a recipe."""
    MODEL = "model"
    """What is trained, not how. A model by its published name is a choice, not a deviation from a
    recipe."""
    DURATION = "duration"
    """How long the stage trains. A stage with a lower value and no other deviation has a short
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
    """The other way to write it. The default, None, leaves the value to the kind."""
    follows: frozenset[str] = frozenset()
    """The fields that determine `value`."""

    def equals(self, other: JsonValue) -> bool:
        """Whether `other` equals `value` up to rounding: 3e-4 and 6e-5 * 80 / 16 are the same
        rate."""
        if isinstance(self.value, float) and isinstance(other, float):
            return math.isclose(self.value, other)
        return self.value == other


def settled(given: float | None, usual: float) -> float:
    """Return `given`, or `usual` if `given` is None or differs from it only by rounding, as in the
    Key."""
    return usual if given is None or math.isclose(given, usual) else given


class Misfit(NamedTuple):
    """A fault of fields that do not fit together: the steps to the field to change, and what is
    wrong."""

    steps: tuple[str | int, ...]
    message: str


Check = Callable[[], Iterable[Misfit]]
MISFIT = "misfit"
"""The type of the pydantic error for a Misfit."""


class Params(BaseModel):
    """The base class of every kind's params: frozen, strict, no unknown fields, no NaN.

    The docstring of a field is its description in the JSON Schema of job files.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        # a job uses one or two kinds, but building the models of all kinds takes 0.3 s
        defer_build=True,
    )

    reference: ClassVar[Mapping[str, JsonValue]] = {}
    """Values of the reference recipe that differ from the defaults, by field."""
    choices: ClassVar[frozenset[str]] = frozenset()
    """Fields that choose what is trained, not how, although they have a default. They are not
    deviations from a recipe."""
    fingerprinted: ClassVar[frozenset[str]] = frozenset()
    """All fields that the kind's fingerprint depends on. Stages with the same values read the data
    only once. If empty, each stage reads the data itself."""

    @property
    def checking_fields(self) -> frozenset[str]:
        """Fields that only check data or inputs, which allow only one right value. They are not
        deviations from a recipe."""
        return frozenset()

    def usual(self) -> Mapping[str, Usual]:
        """Values that have the same effect as another way to write them, given the other fields, by
        field."""
        return {}

    def checks(self) -> tuple[Check, ...]:
        """Checks of fields against each other.

        Each check must read only the fields that it is about. A field with its own fault is missing
        from the value, and checks that do not read it still run.
        """
        return ()

    def written(self, *names: str) -> str:
        """The first of the fields `names` that was given a value, for a fault at this field."""
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
        """Return the params that a Key hashes, as JSON. A usual value is replaced by the other way
        to write it.

        It is not replaced if it depends on a param in `searched` (dotted paths), because it then
        differs between samples.
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
        """Return a validated copy with `values`, keyed by dotted path.

        Raises pydantic's ValidationError for a value that does not fit, KeyError for a path that
        does not exist.
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
    """One line of progress. `done` and `total` are in the stage's own unit (epochs, iterations,
    trials)."""

    text: str
    done: float | None = None
    total: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


class Report(Protocol):
    """Commits progress. Every rank calls it, at most once per epoch or interval.

    `metrics` has `epoch` (counted from 1) and the kind's metrics. `checkpoint_dir` is rank 0's
    folder with everything that a later attempt needs to resume; that attempt gets it as
    `resume_dir`. It is None on the other ranks and if no checkpoint is due. The caller must not use
    the folder afterwards: it is uploaded while training continues, and then deleted.
    """

    def __call__(self, metrics: Mapping[str, float], checkpoint_dir: Path | None) -> None: ...


@dataclass(frozen=True)
class StageContext:
    """Everything that a pipeline's entry point gets. It has no store, no Ray and no other stage."""

    params: Any
    """The kind's Params, with searched values."""
    inputs: Mapping[str, Path]
    """A fetched and verified folder for each input of the kind, by field name."""
    seed: int
    device: str
    """`cpu` or `cuda:N`, where N is the index of the GPU in this process."""
    rank: int
    world_size: int
    work_dir: Path
    """An empty folder of this process on a local disk. It is deleted when the attempt ends."""
    resume_dir: Path | None
    """The checkpoint that an earlier attempt committed last, or None for a fresh start."""
    report: Report
    save: Callable[[Path], None]
    """Commits a checkpoint between reports, as `report` does with its `checkpoint_dir`. Only rank 0
    calls it."""
    should_stop: Callable[[], bool]
    """Whether the stage should write a checkpoint and raise StoppedError, because its run is
    interrupted or its machine is about to leave. Cheap, never blocks. Ranks may see it at different
    times."""
    emit: Callable[[Event], None]
    """Reports progress to the user. Cheap, never blocks, may lose lines. Ignored on ranks other
    than 0."""


@dataclass(frozen=True)
class StageResult:
    """The result of a stage. `outputs` maps each output's name to a folder.

    Only rank 0's result is used.
    """

    outputs: Mapping[str, Path]
    metrics: tuple[Metric, ...]


Entry = Callable[[StageContext], StageResult]

CHECKPOINT = "checkpoint"
"""The output of a kind with a finished model, and the only input of its evaluation."""
EPOCHS_FILE = "epochs.jsonl"
"""A file of the output `log`: one line of JSON for each epoch, with `epoch` and metrics."""
DETAILS = "details"
"""The output of an evaluation with details behind its metrics."""


@dataclass(frozen=True)
class Evaluation:
    """How the kind `evaluate` measures finished models of a kind."""

    entry: str
    """`module:function` with the type Entry. It gets `params`, and `checkpoint` as its only
    input."""
    metrics: Callable[[Any], tuple[str, ...]]
    """Maps params to the names of the measured metrics."""
    fingerprint: Callable[[Any], str]
    """Maps params to a digest of the data that it reads. Raises DataError like the kind's."""
    params: type[Params] | None = None
    """The kind's Params plus the fields that only its evaluation has. None if it has none."""
    outputs: tuple[str, ...] = ()
    takes_file: bool = False
    """Whether the model may be a file from outside the job. The folder then contains only this
    file."""


@dataclass(frozen=True)
class Kind:
    """A row in the table of kinds."""

    name: str
    version: int
    """Part of the Key. Increase it when the same params give other results."""
    params: type[Params]
    inputs: Mapping[str, frozenset[str]]
    """The outputs that each field of role INPUT may point to, written `kind.output`."""
    outputs: tuple[str, ...]
    metrics: Callable[[Any], tuple[str, ...]]
    """Maps params to the names of all metrics that a stage's manifest may have. By default, a
    search maximises the first."""
    fingerprint: Callable[[Any], str]
    """Maps params to a digest of their data. Raises DataError if the data are missing or do not fit
    the params."""
    entry: str | None
    """`module:function` with the type Entry, imported only where the stage runs. None: the cluster
    package runs the stage itself."""
    from_outside: frozenset[str] = frozenset()
    """Fields of role INPUT that may also name a file from outside the job. The folder then contains
    only this file."""
    misfits: Callable[[Any], Iterable[Misfit]] = lambda params: ()
    """Maps params to faults that prevent a stage of this kind, but not an evaluation with the same
    params."""
    reads: Callable[[Any], Mapping[str, str]] = lambda params: {}
    """Maps params to a digest of each small file that they name, other than data and inputs, by
    field. Depends only on fields of role DATA. Raises DataError like `fingerprint`."""
    evaluation: Evaluation | None = None
    """How finished models of this kind are measured. None if the kind has no model to measure."""
    stops: bool = False
    """Whether the entry checks `should_stop`. An interrupted run waits only for the checkpoints of
    such stages."""
    keep_best: Callable[[Any], int] = lambda params: 0
    """Maps params to the number of checkpoints kept for their score, in addition to the newest."""
    less_is_better: frozenset[str] = frozenset()
    """Metrics for which lower is better: a search must not maximise them."""
    fits_workers: Callable[[Any, int], bool] = lambda params, num_workers: True
    """Whether a number of workers can share the work of these params. Used if `workers` is a
    range."""
    evaluates: Kind | None = None
    """Only for the kind `evaluate`: the kind whose models are measured. Its evaluation defines
    `params`."""
