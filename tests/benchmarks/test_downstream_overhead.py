"""`python -m benchmarks.downstream_overhead`: what becomes of what both sides tell; the real thing in small if slow."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from benchmarks import downstream_overhead as benchmark
from benchmarks.downstream_overhead import Round, Side, main, side_of
from benchmarks.downstream_sides import Ground, _is_iteration, params_of
from benchmarks.turns import Player, Told, Turn
from pipelines import KINDS

GROUND = Ground(Path("data"), Path("store"), Path("checkpoint"), iterations=40)


def _player(folder: Path, told: Sequence[Told], turns: Sequence[Turn]) -> Player:
    return Player("nothing", [], folder, GROUND.iterations, lambda: told, turns=[*turns], began_s=1000.0)


def test_a_rate_is_of_one_turn_and_start_up_ends_where_the_first_iteration_begins(tmp_path: Path) -> None:
    told = [Told(1030.0, 10, 3.0), Told(1101.0, 20, 2.0), Told(1106.0, 30, 1.8), Told(1111.0, 40, 1.5)]
    player = _player(tmp_path, told, [Turn(1100, 1107), Turn(1110, 1112)])
    assert side_of(player) == Side(startup_s=25.0, iterations_per_s=(2.0, None), loss=1.5)


def test_a_training_that_ended_early_is_no_measurement(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="iteration 10 was told last"):
        side_of(_player(tmp_path, [Told(1030.0, 10, 3.0)], []))


def test_turns_are_compared_that_follow_each_other() -> None:
    ours, rival = Side(30, (2.0, None, 3.0, 4.0), 1.5), Side(10, (4.0, 5.0, 3.0), 1.5)
    assert Round("fcos", ours, rival).ratios == [0.5, 1.0]


def test_a_validation_is_no_iteration() -> None:
    events = [{"loss": 1.0}, {"loss": 1.0, "box_map": 3.0}, {"loss": 1.0, "miou": 3.0}, {}]
    lines = [{"stage": "downstream", "event": {"metrics": metrics}} for metrics in events]
    assert [_is_iteration(line) for line in lines] == [True, False, False, False]


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
    rates = {"ours": 2.0, "rival": rate}
    order: list[str] = []

    def make(name: str, *_: object) -> Player:
        told = [Told(1030, 10, 1.5), Told(1100, 20, 1.5), Told(1100 + 20 / rates[name], 40, 1.5)]
        player = _player(tmp_path, told, [Turn(1100, 1111)])
        player.module = name
        return player

    monkeypatch.setattr(benchmark, "prepare", lambda *_: GROUND)
    monkeypatch.setattr(benchmark, "SIDES", {name: partial(make, name) for name in rates})
    monkeypatch.setattr(benchmark, "play", lambda *players: order.extend(player.module for player in players))
    found = tmp_path / "found.json"
    assert main([*arguments, "--rounds", "2", "--methods", "retinanet", "--json", str(found)]) == code
    assert order == ["ours", "rival", "rival", "ours"]
    out = capsys.readouterr().out
    ratio = f"{2 / rate:.3f} ({2 / rate:.3f}..{2 / rate:.3f} in"
    assert f"retinanet round 2: {ratio} 1 pairs of turns); ours 2.00 iterations/s, rival {rate:.2f}" in out
    assert f"{ratio} 2 pairs of turns); bar >= 0.98: {'met' if rate == 2 else 'MISSED'}" in out
    assert f"command to first iteration: 25.0 s and {30 - 10 / rate:.1f} s" in out
    assert json.loads(found.read_text())["ratios"]["retinanet"]["median"] == 2 / rate


def test_rounds_without_turns_to_compare_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = [Told(1030, 10, 1.5), Told(1100, 40, 1.5)]
    monkeypatch.setattr(benchmark, "prepare", lambda *_: GROUND)
    make = lambda turns, *_: _player(tmp_path, told, turns)  # noqa: E731
    sides = {"ours": partial(make, [Turn(1000, 1200), Turn(1300, 1400)]), "rival": partial(make, [])}
    monkeypatch.setattr(benchmark, "SIDES", sides)
    monkeypatch.setattr(benchmark, "play", lambda *_: None)
    with pytest.raises(SystemExit, match="give more --iterations"):
        main(["--methods", "retinanet"])


@pytest.mark.slow
def test_the_quick_mode_trains_both_sides_to_about_the_same_loss(tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    assert main(["--quick", "--methods", "semantic_fpn", "--json", str(found)]) == 0
    (one,) = json.loads(found.read_text())["rounds"]
    assert one["ours"]["loss"] == pytest.approx(one["rival"]["loss"], rel=0.2)
    assert one["ours"]["startup_s"] > 0
