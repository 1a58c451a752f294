"""The kind `tune`: a search over the params of another stage, its template. The cluster runs it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from orchestrator.artifact import digest_of
from orchestrator.contract import Kind, Params, Role
from orchestrator.spec.space import Distribution


class TuneParams(Params):
    """Params of a search. The Key of a search hashes, beside these, the params and data of its template."""

    of: Annotated[str, Role.OUTSIDE_KEY]
    """The stage whose params are searched. Its name is not in the Key: its params are."""
    space: Annotated[dict[str, Distribution], Field(min_length=1)]
    """What is searched, by dotted path in the template's params."""
    num_trials: Annotated[int, Field(ge=1)]
    """Samples of the space that are tried."""
    overrides: Annotated[dict[str, JsonValue], Role.OUTSIDE_KEY] = Field(default_factory=dict)
    """Params of the trials other than the template's, by dotted path, such as `epochs: 2`. In the Key through those."""
    initial: tuple[dict[str, JsonValue], ...] = ()
    """Points that are tried first, such as a known good one: each a value for every name of the space."""
    metric: str | None = None
    """What the search maximises; by default the first metric of its template."""
    algorithm: Literal["optuna", "random"] = "optuna"
    """How samples are chosen: Optuna's TPE, or at random."""
    scheduler: Literal["asha", "none"] = "asha"
    """Whether bad trials are stopped early."""
    grace_period: Annotated[int, Field(ge=1)] = 1
    """Reports (epochs) that ASHA leaves every trial."""
    reduction_factor: Annotated[int, Field(ge=2)] = 3
    """ASHA keeps one in so many at each rung."""
    max_concurrent: Annotated[Annotated[int, Field(ge=1)] | None, Role.OUTSIDE_KEY] = None
    """Trials at a time; by default as many as the cluster holds."""


def _no_data(_: TuneParams) -> str:
    """A search names no data: that of its template is fingerprinted with the template's params."""
    return digest_of([])


def _maximised(params: TuneParams) -> tuple[str, ...]:
    return (params.metric,) if params.metric else ()


TUNE = Kind(
    name="tune",
    version=1,
    params=TuneParams,
    inputs={},
    outputs=("best_params", "trials"),
    metrics=_maximised,
    fingerprint=_no_data,
    entry=None,
)

BEST_PARAMS = frozenset({f"{TUNE.name}.best_params"})
"""What `params_from` may point to."""
