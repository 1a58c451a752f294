"""The kind `tune`: a search over the params of another stage, its template. The cluster runs it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import Field, JsonValue

from orchestrator.artifact import digest_of
from orchestrator.contract import Check, Kind, Misfit, Params, Role
from orchestrator.spec.kinds.space import Distribution

Mode = Literal["max", "min"]


class Algorithm(Params):
    """How samples of the space are chosen."""

    name: Literal["optuna", "random", "grid"] = "optuna"
    """Optuna's TPE, which learns from the trials before; at random; or each combination of the
    choices once."""
    seed: int | None = None
    """Of the samples; by default the seed of the stage."""


class Scheduler(Params):
    """Which trials are stopped early."""

    name: Literal["asha", "hyperband", "median", "none"] = "asha"
    """Asynchronous successive halving; the same with three brackets of it; those below the median
    of the others' averages; or none."""
    grace_period: Annotated[int, Field(ge=1)] = 1
    """Epochs that every trial gets."""
    reduction_factor: Annotated[int, Field(ge=2)] = 3
    """Of asha and hyperband, which keep one in so many at each rung."""


class Stop(Params):
    """When no further trial starts; those under way train to their end."""

    hours: Annotated[float, Field(gt=0)] | None = None
    """Hours that the search has run, all its runs together."""
    no_improvement: Annotated[int, Field(ge=1)] | None = None
    """Trials in a row, in the order in which they ended, none of which was better than the best
    before."""


class TuneParams(Params):
    """Params of a search. The Key of a search hashes, beside these, the params and data of its
    template."""

    of: Annotated[str, Role.OUTSIDE_KEY]
    """The stage whose params are searched. Its name is not in the Key: its params are."""
    space: Annotated[dict[str, Distribution], Field(min_length=1)]
    """What is searched, by dotted path in the template's params."""
    num_trials: Annotated[int, Field(ge=1)] | None = None
    """Samples of the space that are tried; of a grid, which has as many as it has, it is left
    out."""
    overrides: Annotated[dict[str, JsonValue], Role.OUTSIDE_KEY] = Field(default_factory=dict)
    """Params of the trials other than the template's, by dotted path, such as `epochs: 2`. In the
    Key through those."""
    initial: tuple[dict[str, JsonValue], ...] = ()
    """Points that are tried first, such as a known good one: each a value for every name of the
    space."""
    metric: str | None = None
    """What the search looks at; by default the first metric of its template."""
    mode: Mode = "max"
    """Whether more of it is better, or less."""
    algorithm: Algorithm = Algorithm()
    """How samples of the space are chosen, such as `{name: random, seed: 1}`."""
    scheduler: Scheduler = Scheduler()
    """Which trials are stopped early, such as `{name: asha, grace_period: 5}`."""
    stop: Stop = Stop()
    """When no further trial starts, such as `{hours: 12, no_improvement: 8}`."""
    max_concurrent: Annotated[Annotated[int, Field(ge=1)] | Literal["auto"], Role.OUTSIDE_KEY] = (
        "auto"
    )
    """Trials at a time; `auto`: as many as the cluster holds."""

    @property
    def size(self) -> int:
        """The number of trials, if nothing stops the search before."""
        return len(self.points) if self.num_trials is None else self.num_trials

    @property
    def points(self) -> tuple[Mapping[str, JsonValue], ...]:
        """Samples that are given: those of `initial`, or the whole grid, the last name of the
        alphabet changing fastest."""
        if self.algorithm.name != "grid":
            return self.initial
        names = sorted(self.space)
        choices = [self.space[name].choice or () for name in names]
        return tuple(
            dict(zip(names, values, strict=True)) for values in itertools.product(*choices)
        )

    def checks(self) -> tuple[Check, ...]:
        return (self._has_a_size, self._has_choices, self._tries_each_once)

    @property
    def _is_grid(self) -> bool:
        return self.algorithm.name == "grid"

    def _has_a_size(self) -> Iterator[Misfit]:
        if not self._is_grid and self.num_trials is None:
            yield Misfit((), "num_trials is required, unless algorithm is {name: grid}")

    def _has_choices(self) -> Iterator[Misfit]:
        """A grid is made of them."""
        for name, distribution in self.space.items() if self._is_grid else ():
            if distribution.choice is None:
                message = (
                    f"a grid is made of choices, and {name} is {distribution.name}: list its values"
                )
                yield Misfit(("space", name), message)

    def _tries_each_once(self) -> Iterator[Misfit]:
        for field in ("num_trials", "initial") if self._is_grid else ():
            if getattr(self, field):
                yield Misfit((field,), f"a grid tries each combination once: leave {field} out")


def _no_data(_: TuneParams) -> str:
    """A search names no data: that of its template is fingerprinted with the template's params."""
    return digest_of([])


def _searched_metric(params: TuneParams) -> tuple[str, ...]:
    return (params.metric,) if params.metric else ()


TUNE = Kind(
    name="tune",
    version=2,
    params=TuneParams,
    inputs={},
    outputs=("best_params", "best_checkpoint", "trials"),
    metrics=_searched_metric,
    fingerprint=_no_data,
    entry=None,
)

BEST_CHECKPOINT = "best_checkpoint"
"""The output that holds the best trial's model: wherever a checkpoint of the template's kind goes,
so does it."""
BEST_PARAMS = frozenset({f"{TUNE.name}.best_params"})
"""What `params_from` may point to."""
