"""The kind `evaluate`: measures a finished model and trains nothing.

Each kind defines how its models are measured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field, JsonValue

from orchestrator.artifact import digest_of
from orchestrator.contract import CHECKPOINT, Check, Kind, Misfit, Params

VERSION = 1


class EvaluateParams(Params):
    """The fields of an evaluation. With `task`, the stage also has the params of that kind."""

    of: str | None = None
    """The stage to measure. The evaluation uses its kind, params and data."""
    task: str | None = None
    """Instead of `of`: the kind whose models are measured, such as `pretrain`."""
    checkpoint: Annotated[str, Field(min_length=1)] | None = None
    """The model: an output of a stage, or a file from outside. By default, the checkpoint of the
    stage `of`."""
    overrides: dict[str, JsonValue] = Field(default_factory=dict)
    """With `of`: params that differ from that stage's, by dotted path, such as `crop_pct: 0.9`."""

    def checks(self) -> tuple[Check, ...]:
        return (self._measures_one_thing, self._overrides_a_stage, self._has_a_model)

    def _measures_one_thing(self) -> Iterator[Misfit]:
        if (self.of is None) == (self.task is None):
            message = (
                "must have exactly one of `of` (a stage to measure) and `task` (a kind, with its "
                "params)"
            )
            yield Misfit(() if self.of is None else ("task",), message)

    def _overrides_a_stage(self) -> Iterator[Misfit]:
        if self.of is None and self.task is not None and self.overrides:
            message = "`overrides` needs `of`; with `task`, write the params in the stage itself"
            yield Misfit(("overrides",), message)

    def _has_a_model(self) -> Iterator[Misfit]:
        if self.of is None and self.task is not None and self.checkpoint is None:
            yield Misfit(("task",), "`task` needs a `checkpoint`: an output of a stage or a file")


EVALUATE = Kind(
    name="evaluate",
    version=VERSION,
    params=EvaluateParams,
    inputs={},
    outputs=(),
    metrics=lambda _: (),
    fingerprint=lambda _: digest_of([]),
    entry=None,
)
"""The kind as written in a job file. `evaluation_of` makes the one for the measured kind."""


def evaluation_of(kind: Kind) -> Kind:
    """Return the kind `evaluate` for models of `kind`, with the params and the entry point that
    `kind` defines for its evaluation."""
    assert kind.evaluation is not None, f"{kind.name} has no evaluation"
    return Kind(
        name=EVALUATE.name,
        version=VERSION,
        params=kind.evaluation.params or kind.params,
        inputs={CHECKPOINT: frozenset({f"{kind.name}.{CHECKPOINT}"})},
        outputs=kind.evaluation.outputs,
        metrics=kind.evaluation.metrics,
        fingerprint=kind.evaluation.fingerprint,
        reads=kind.reads,
        entry=kind.evaluation.entry,
        from_outside=frozenset({CHECKPOINT} if kind.evaluation.takes_file else ()),
        evaluates=kind,
    )
