"""The published trials of a search, and which of them is the best."""

from __future__ import annotations

import pytest

from orchestrator.trials import Point, Trial, Trials, TrialState


def _trial(number: int, value: float | None, epoch: int, state: str) -> Trial:
    curve = tuple(Point(epoch=done, value=value, elapsed_s=1.0) for done in range(1, epoch + 1))
    return Trial(
        number=number,
        id=f"{number:05d}",
        params={"lr": 0.1},
        state=TrialState(state),
        curve=curve,
        value=value,
        num_samples=None,
        duration_s=1.0,
        gpu_hours=0.0,
        core_hours=0.1,
        error=None,
    )


@pytest.mark.parametrize(
    ("trials", "mode", "best"),
    [
        ([(3.0, 5, "finished"), (9.0, 5, "finished"), (9.0, 5, "finished")], "max", 2),
        ([(3.0, 5, "finished"), (9.0, 5, "finished")], "min", 1),
        ([(3.0, 5, "finished"), (9.0, 2, "stopped"), (9.0, 4, "failed")], "max", 1),
        ([(9.0, 1, "stopped"), (4.0, 3, "stopped"), (2.0, 3, "stopped")], "max", 2),
        ([(9.0, 1, "stopped"), (4.0, 3, "stopped"), (2.0, 3, "stopped")], "min", 3),
        ([(None, 0, "failed"), (None, 0, "stopped")], "max", None),
        ([], "max", None),
    ],
)
def test_best_trial_is_finished_or_has_the_most_epochs(
    trials: list[tuple[float | None, int, str]], mode: str, best: int | None
) -> None:
    made = tuple(_trial(number, *trial) for number, trial in enumerate(trials, 1))
    found = Trials.model_validate({"metric": "top1", "mode": mode, "trials": made}).best()
    assert (found.number if found else None) == best


def test_trials_are_read_as_they_were_written() -> None:
    trials = Trials(metric="top1", mode="max", trials=(_trial(1, 3.0, 2, "finished"),))
    assert Trials.model_validate_json(trials.model_dump_json()) == trials
