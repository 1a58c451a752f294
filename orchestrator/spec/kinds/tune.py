"""The kind `tune`: a search over the params of another stage, its template.

`orchestrator.cluster` runs it."""

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
    """`optuna`: Optuna's TPE, which learns from earlier trials; `random`: at random; `grid`: each
    combination of the choices once."""
    seed: int | None = None
    """The seed of the samples. By default, the seed of the stage."""


class Scheduler(Params):
    """Which trials are stopped early."""

    name: Literal["asha", "hyperband", "median", "none"] = "asha"
    """`asha`: asynchronous successive halving; `hyperband`: the same with three brackets; `median`:
    stops trials below the median of the others' averages; `none`: stops none."""
    grace_period: Annotated[int, Field(ge=1)] = 1
    """Epochs that every trial gets."""
    reduction_factor: Annotated[int, Field(ge=2)] = 3
    """For `asha` and `hyperband`: one trial in this many is kept at each rung."""


class Stop(Params):
    """When no further trial starts. Running trials still train to their end."""

    hours: Annotated[float, Field(gt=0)] | None = None
    """Hours that the search has run, summed over all its runs."""
    no_improvement: Annotated[int, Field(ge=1)] | None = None
    """Trials in a row, in the order in which they ended, that did not improve the best value."""


class TuneParams(Params):
    """Params of a search. The Key of a search also hashes the params and data of its template."""

    of: Annotated[str, Role.OUTSIDE_KEY]
    """The stage whose params are searched. Its params are in the Key, its name is not."""
    space: Annotated[dict[str, Distribution], Field(min_length=1)]
    """The distribution of each searched param, by dotted path in the template's params."""
    num_trials: Annotated[int, Field(ge=1)] | None = None
    """The number of samples to try. Left out for a grid, whose choices determine it."""
    overrides: Annotated[dict[str, JsonValue], Role.OUTSIDE_KEY] = Field(default_factory=dict)
    """Params of the trials that differ from the template's, by dotted path, such as `epochs: 2`.
    The Key hashes the resulting params."""
    initial: tuple[dict[str, JsonValue], ...] = ()
    """Points to try first, such as a known good one. Each has a value for every name of the
    space."""
    metric: str | None = None
    """The metric that the search optimises. By default, the first metric of its template."""
    mode: Mode = "max"
    """Whether a higher (`max`) or a lower (`min`) metric is better."""
    algorithm: Algorithm = Algorithm()
    """How samples of the space are chosen, such as `{name: random, seed: 1}`."""
    scheduler: Scheduler = Scheduler()
    """Which trials are stopped early, such as `{name: asha, grace_period: 5}`."""
    stop: Stop = Stop()
    """When no further trial starts, such as `{hours: 12, no_improvement: 8}`."""
    max_concurrent: Annotated[Annotated[int, Field(ge=1)] | Literal["auto"], Role.OUTSIDE_KEY] = (
        "auto"
    )
    """Trials that run at a time. `auto`: as many as fit on the cluster."""

    @property
    def size(self) -> int:
        """The number of trials, unless the search stops earlier."""
        return len(self.points) if self.num_trials is None else self.num_trials

    @property
    def points(self) -> tuple[Mapping[str, JsonValue], ...]:
        """The samples known in advance: `initial`, or all points of a grid.

        In a grid, the alphabetically last name changes fastest.
        """
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
        """A grid needs `choice` for every param."""
        for name, distribution in self.space.items() if self._is_grid else ():
            if distribution.choice is None:
                message = (
                    f"a grid needs `choice` for every param, but {name} is {distribution.name}; "
                    "list its values"
                )
                yield Misfit(("space", name), message)

    def _tries_each_once(self) -> Iterator[Misfit]:
        for field in ("num_trials", "initial") if self._is_grid else ():
            if getattr(self, field):
                yield Misfit((field,), f"a grid tries each combination once; remove {field}")


def _no_data(_: TuneParams) -> str:
    """A search has no data of its own: the template's data are fingerprinted with its params."""
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
"""The output with the best trial's model. Fields that accept a checkpoint of the template's kind
also accept this output."""
BEST_PARAMS = frozenset({f"{TUNE.name}.best_params"})
"""The outputs that `params_from` may point to."""
