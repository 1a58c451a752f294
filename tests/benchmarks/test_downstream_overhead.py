"""`python -m benchmarks.downstream_overhead`: what becomes of what both sides tell; the real thing in small if slow."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import downstream_overhead as benchmark
from benchmarks.downstream_overhead import Ground, Side, Told, main, params_of, side_of
from pipelines import KINDS

SIDE = Side(startup_s=30.0, iterations_per_s=2.0, loss=1.5)
GROUND = Ground(Path("data"), Path("store"), Path("checkpoint"), iterations=40)


def test_a_burst_of_other_work_does_not_count_and_start_up_ends_where_the_first_iteration_begins() -> None:
    told = [Told(1030.0, 10, 3.0), Told(1035.0, 20, 2.0), Told(1055.0, 30, 1.8), Told(1060.0, 40, 1.5)]
    assert side_of(1000.0, told, 40) == Side(startup_s=25.0, iterations_per_s=2.0, loss=1.5)


def test_a_training_that_ended_early_is_no_measurement() -> None:
    with pytest.raises(AssertionError, match="iteration 10 was told last instead of 40"):
        side_of(1000.0, [Told(1030.0, 10, 3.0)], 40)


def test_a_validation_is_no_iteration() -> None:
    events = [{"loss": 1.0}, {"loss": 1.0, "box_map": 3.0}, {"loss": 1.0, "miou": 3.0}, {}]
    lines = [{"stage": "downstream", "event": {"metrics": metrics}} for metrics in events]
    assert [benchmark._is_iteration(line) for line in lines] == [True, False, False, False]


@pytest.mark.parametrize("method", ["retinanet", "semantic_fpn"])
def test_both_sides_train_valid_params(method: str) -> None:
    params = params_of(method, GROUND)
    KINDS[params.pop("kind")].params.model_validate_json(json.dumps(params))


@pytest.mark.parametrize(("rate", "arguments", "code"), [(2.0, [], 0), (2.5, [], 1), (2.5, ["--quick"], 0)])
def test_the_exit_code_says_whether_the_bar_is_met(
    rate: float,
    arguments: list[str],
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    order: list[str] = []

    def train(name: str, side: Side) -> Side:
        order.append(name)
        return side

    rival = replace(SIDE, iterations_per_s=rate)
    monkeypatch.setattr(benchmark, "prepare", lambda *_: GROUND)
    monkeypatch.setattr(benchmark, "train_ours", lambda *_: train("ours", SIDE))
    monkeypatch.setattr(benchmark, "train_rival", lambda *_: train("rival", rival))
    found = tmp_path / "found.json"
    assert main([*arguments, "--rounds", "2", "--methods", "retinanet", "--json", str(found)]) == code
    assert order == ["ours", "rival", "rival", "ours"]
    out = capsys.readouterr().out
    assert f"retinanet round 2: ours 2.00 iterations/s, rival {rate:.2f}, ratio {2 / rate:.3f}" in out
    assert f"bar >= 0.98: {'met' if rate == 2 else 'MISSED'}; command to first iteration: 30.0 s and 30.0 s" in out
    assert json.loads(found.read_text())["ratios"]["retinanet"]["median"] == 2 / rate


@pytest.mark.slow
def test_the_quick_mode_trains_both_sides_to_about_the_same_loss(tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    assert main(["--quick", "--methods", "semantic_fpn", "--json", str(found)]) == 0
    (one,) = json.loads(found.read_text())["rounds"]
    assert one["ours"]["loss"] == pytest.approx(one["rival"]["loss"], rel=0.2)
    assert one["ours"]["startup_s"] > 0
