"""Generated trials of a medium-sized search, for tests of reports."""

from __future__ import annotations

from collections.abc import Mapping
from math import exp, log10

from pydantic import JsonValue

from orchestrator.trials import Point, Trial, Trials, TrialState

FULL = 27
EPOCH_S = 120.0
START_S = 30.0


def make_trial(
    number: int,
    params: Mapping[str, JsonValue],
    *values: float | None,
    state: TrialState = TrialState.FINISHED,
    error: str | None = None,
    epoch_s: float = EPOCH_S,
    gpus: int = 0,
) -> Trial:
    """Make a trial that reported `values`, one per epoch, on four cores."""
    curve = tuple(
        Point(epoch=epoch, value=value, elapsed_s=START_S + epoch * epoch_s)
        for epoch, value in enumerate(values, 1)
    )
    duration_s = START_S + len(values) * epoch_s
    return Trial(
        number=number,
        id=f"t{number:02}",
        params=params,
        state=state,
        curve=curve,
        value=values[-1] if values else None,
        num_samples=500 if state is TrialState.FINISHED else None,
        duration_s=duration_s,
        gpu_hours=gpus * duration_s / 3600,
        core_hours=4 * duration_s / 3600,
        error=error,
    )


def make_trials(*trials: Trial, metric: str = "top1", mode: str = "max") -> Trials:
    return Trials.model_validate({"metric": metric, "mode": mode, "trials": trials})


def asha_search(num_trials: int = 26) -> Trials:
    """Make an ASHA search over four params, of which `lr` is the most important. Two trials fail,
    the others finish or stop at a rung."""
    return make_trials(*(_sampled(number) for number in range(1, num_trials + 1)))


def _sampled(number: int) -> Trial:
    spread = [(number * step) % 1 for step in (0.6180339887, 0.7548776662, 0.5698402910)]
    models: list[JsonValue] = [{"embed_dim": 64, "depths": [1, 1, 2, 1]}, "cat_tiny"]
    params: dict[str, JsonValue] = {
        "lr": 10 ** (-4 + 1.6 * spread[0]),
        "drop_path_rate": round(0.3 * spread[1], 2),
        "mixup": (0.0, 0.2, 0.8)[int(3 * spread[2])],
        "model": models[number % 2],
    }
    if number in (7, 19):
        error = "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"
        return make_trial(
            number, params, *_curve(params, 2), state=TrialState.FAILED, error=error, gpus=1
        )
    goal = _goal(params)
    epochs = FULL if goal > 76 else 9 if goal > 71 else 3
    state = TrialState.FINISHED if epochs == FULL else TrialState.STOPPED
    return make_trial(number, params, *_curve(params, epochs), state=state, gpus=1)


def _goal(params: Mapping[str, JsonValue]) -> float:
    lr, drop_path, mixup = (float(str(params[name])) for name in ("lr", "drop_path_rate", "mixup"))
    return 81 - 14 * float(abs(log10(lr) + 3.1) ** 1.5) - 40 * (drop_path - 0.1) ** 2 + 1.5 * mixup


def _curve(params: Mapping[str, JsonValue], epochs: int) -> list[float]:
    return [_goal(params) * (1 - 0.8 * exp(-epoch / 5)) for epoch in range(1, epochs + 1)]
