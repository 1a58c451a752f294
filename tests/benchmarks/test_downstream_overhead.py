"""`python -m benchmarks.downstream_overhead`: ratios, exit codes and messages.

A stress test runs the whole benchmark in its quick mode.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from benchmarks import downstream_overhead as benchmark
from benchmarks.downstream_overhead import Ratio, Round, Side, main, side_of
from benchmarks.downstream_sides import Ground, params_of
from benchmarks.turns import WARM_UP, Player, Turn
from pipelines import KINDS

GROUND = Ground(Path("data"), Path("store"), Path("checkpoint"), iterations=40)


def _player(
    folder: Path, times: Sequence[float], turns: Sequence[Turn], *, name: str = "ours"
) -> Player:
    """A player that began at 1000 s, warmed up at 1030 s, and ended iterations at `times`."""
    home = folder / name
    home.mkdir(exist_ok=True)
    (home / "stamps").write_text(
        "".join(f"{time_s} 1.5\n" for time_s in [1030.0] * WARM_UP + [*times])
    )
    return Player("nothing", [], home, WARM_UP + len(times), turns=[*turns], began_s=1000.0)


def test_a_rate_covers_one_turn_without_the_warm_up(tmp_path: Path) -> None:
    player = _player(
        tmp_path,
        [1101.0, 1101.5, 1102.0, 1106.0],
        [Turn(1029, 1031), Turn(1100, 1103), Turn(1105, 1107)],
    )
    assert side_of(player) == Side(startup_s=30.0, iterations_per_s=(None, 2.0, None), loss=1.5)


def test_a_training_that_ends_early_is_an_error(tmp_path: Path) -> None:
    player = _player(tmp_path, [1101.0], [])
    player.iterations = 40
    with pytest.raises(AssertionError, match="11 iterations instead of 40"):
        side_of(player)


def test_the_interval_of_the_median_follows_from_ranks() -> None:
    """A binomial table gives the 10th to the 21st of 30 values."""
    assert Ratio.of([float(number) for number in range(30, 0, -1)]) == Ratio(15.5, 10.0, 21.0, 30)
    assert Ratio.of([2.0, 1.0]) == Ratio(1.5, 1.0, 2.0, 2)


def test_consecutive_turns_are_compared() -> None:
    ours, rival = Side(30, (2.0, None, 3.0, 4.0), 1.5), Side(10, (4.0, 5.0, 3.0), 1.5)
    assert Round("fcos", ours, rival).ratios == [0.5, 1.0]


@pytest.mark.parametrize("method", ["retinanet", "semantic_fpn"])
def test_the_params_of_both_sides_are_valid(method: str) -> None:
    params = params_of(method, GROUND)
    KINDS[params.pop("kind")].params.model_validate_json(json.dumps(params))


@pytest.mark.parametrize(
    ("rate", "arguments", "code"), [(2.0, [], 0), (2.5, [], 1), (2.5, ["--quick"], 0)]
)
def test_the_exit_code_shows_whether_the_bar_is_met(
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
        player = _player(tmp_path, [1100.0, 1100 + 1 / rates[name]], [Turn(1100, 1101)], name=name)
        player.module = name
        return player

    monkeypatch.setattr(benchmark, "prepare", lambda *_: GROUND)
    monkeypatch.setattr(benchmark, "SIDES", {name: partial(make, name) for name in rates})
    monkeypatch.setattr(
        benchmark, "play", lambda *players: order.extend(player.module for player in players)
    )
    found = tmp_path / "found.json"
    assert (
        main([*arguments, "--rounds", "2", "--methods", "retinanet", "--json", str(found)]) == code
    )
    assert order == ["ours", "rival", "rival", "ours"]
    out = capsys.readouterr().out
    ratio = f"{2 / rate:.3f} ({2 / rate:.3f}..{2 / rate:.3f} with 95 %,"
    assert (
        f"retinanet round 2: {ratio} 1 pairs of turns); ours 2.00 iterations/s, rival {rate:.2f}"
        in out
    )
    assert f"{ratio} 2 pairs of turns); bar >= 0.98: {'met' if rate == 2 else 'MISSED'}" in out
    assert "command to first iteration: 30.0 s and 30.0 s" in out
    assert json.loads(found.read_text())["ratios"]["retinanet"]["median"] == pytest.approx(2 / rate)


def test_too_few_turns_to_compare_exit_with_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "prepare", lambda *_: GROUND)
    make = lambda turns, *_: _player(tmp_path, [1100.0], turns)  # noqa: E731
    sides = {
        "ours": partial(make, [Turn(1000, 1200), Turn(1300, 1400)]),
        "rival": partial(make, []),
    }
    monkeypatch.setattr(benchmark, "SIDES", sides)
    monkeypatch.setattr(benchmark, "play", lambda *_: None)
    with pytest.raises(SystemExit, match="give more --iterations"):
        main(["--methods", "retinanet"])


@pytest.mark.stress
def test_quick_mode_trains_both_sides_to_similar_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "benchmarks.turns.TURN_S", 4.0
    )  # enough for some iterations on a slow machine
    found = tmp_path / "found.json"
    assert main(["--quick", "--methods", "semantic_fpn", "--json", str(found)]) == 0
    (one,) = json.loads(found.read_text())["rounds"]
    assert one["ours"]["loss"] == pytest.approx(one["rival"]["loss"], rel=0.2)
    assert one["ours"]["startup_s"] > 0
