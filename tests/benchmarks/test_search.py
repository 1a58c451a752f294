"""`python -m benchmarks.search`: budgets, sums and exit codes.

A stress test runs the whole benchmark in its quick mode.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmarks import search as benchmark
from benchmarks.search import Overhead, Race, compare, main
from benchmarks.search_rival import main as train_alone
from benchmarks.searching import TEMPLATE, Searched
from orchestrator.trials import Point, Trial, Trials, TrialState
from pipelines.pretrain.params import PretrainParams

FINISHED, STOPPED = TrialState.FINISHED, TrialState.STOPPED


def searched(*trials: tuple[float, TrialState, float]) -> Searched:
    """A search from (seconds until its end, state, top-1) of each trial."""
    made = [_trial(number, state, top1) for number, (_, state, top1) in enumerate(trials, 1)]
    ended_s = {trial.id: ended_s for trial, (ended_s, _, _) in zip(made, trials, strict=True)}
    return Searched(Trials(metric="top1", mode="max", trials=tuple(made)), ended_s)


def _trial(number: int, state: TrialState, top1: float) -> Trial:
    return Trial(
        number=number,
        id=f"{number:05d}",
        params={"lr": 1e-3},
        state=state,
        curve=(Point(epoch=1 if state is STOPPED else 9, value=top1, elapsed_s=1.0),),
        value=top1,
        num_samples=None,
        duration_s=1.0,
        gpu_hours=0.0,
        core_hours=1 / 3600,
        error=None,
    )


def test_searches_compare_at_the_smaller_cost() -> None:
    random = searched((20.0, FINISHED, 70.0), (40.0, FINISHED, 60.0))
    stopping = searched(
        (21.0, FINISHED, 65.0),
        (25.0, STOPPED, 90.0),
        (40.0, FINISHED, 75.0),
        (60.0, FINISHED, 99.0),
    )
    race = compare({"asha+tpe": stopping, "random": random}, seed=0)
    assert race.core_s == 40.0
    assert race.best == {"asha+tpe": 75.0, "random": 70.0}
    assert race.num_trials == {"asha+tpe": 3, "random": 2}
    assert race.ended["asha+tpe"][1:4:2] == ((25.0, 1, 90.0), (60.0, 9, 99.0))


def test_a_search_without_an_ended_trial_has_no_best() -> None:
    race = compare(
        {"asha+tpe": searched((9.0, FINISHED, 50.0)), "random": searched((10.0, FINISHED, 60.0))},
        seed=0,
    )
    assert race.best == {"asha+tpe": 50.0, "random": None}


def test_tunes_added_time_is_divided_among_the_trials() -> None:
    overhead = Overhead(tune_s=210.0, alone_s=(80.0, 120.0))
    assert overhead.added_s == 5.0
    assert overhead.ratio == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("overhead", "code", "text"),
    [
        (
            Overhead(129.0, (60.0, 60.0)),
            0,
            "Tune adds 4.5 s to a trial of 60.0 s, 7.5 %; bar <= 10 %: met",
        ),
        (Overhead(140.0, (60.0, 60.0)), 1, "16.7 %; bar <= 10 %: MISSED"),
        (Overhead(20.0, (5.0, 5.0)), 0, "100.0 %; bar <= 10 %: only for trials of 60 s or more"),
    ],
)
def test_the_exit_code_shows_whether_the_bar_is_met(
    overhead: Overhead,
    code: int,
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = Race(0, 40.0, {"asha+tpe": 75.0, "random": 70.0}, {"asha+tpe": 3, "random": 2}, {})
    monkeypatch.setattr(benchmark, "race", lambda *_: found)
    monkeypatch.setattr(benchmark, "measure_overhead", lambda *_: overhead)
    assert main(["--seeds", "2", "--json", str(tmp_path / "found.json")]) == code
    out = capsys.readouterr().out
    assert "+5.00 points of top-1 on average, better with 2 of 2 seeds\n" in out
    assert text in out
    document = json.loads((tmp_path / "found.json").read_text())
    assert [one["best"]["random"] for one in document["races"]] == [70.0, 70.0]


def test_a_trial_trains_without_ray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    changes: Mapping[str, float] = {"epochs": 1, "data_fraction": 0.05, "lr": 1e-3}
    params = PretrainParams.model_validate_json(json.dumps({**TEMPLATE, **changes}))
    assert 0 <= train_alone(params, seed=0) <= 100


@pytest.mark.stress
def test_the_quick_mode_measures_everything(capsys: pytest.CaptureFixture[str]) -> None:
    """The benchmark also asserts that a trial has the same score without Tune."""
    assert main(["--quick"]) == 0
    assert "Tune adds " in capsys.readouterr().out
