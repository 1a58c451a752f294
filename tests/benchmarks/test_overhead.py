"""`python -m benchmarks.overhead`: the rival as a real process, and the results of rounds.

No test asserts a time.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import overhead
from benchmarks.overhead import Epoch, Round, Side, main

SIDE = Side(startup_s=3.0, images_per_s=(100.0, 104.0, 90.0), loss=2.3)


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, object]:
    """The settings of the benchmark's smallest training, with a tenth of its images."""
    settings = overhead.training_settings(tmp_path, epochs=2)
    for number, path in enumerate(sorted((tmp_path / "imagenet/train").rglob("*.png"))):
        if number % 10:
            path.unlink()
    return settings


def test_the_rival_trains_and_reports_every_epoch(
    settings: dict[str, object], tmp_path: Path
) -> None:
    side = overhead._train_rival(tmp_path, settings)
    assert len(side.images_per_s) == 1
    assert side.images_per_s[0] > 0
    assert side.startup_s > 0
    assert 1.5 < side.loss < 3.5  # ten classes: chance is 2.3


@pytest.mark.slow
def test_a_round_trains_both_sides_to_similar_losses(
    settings: dict[str, object], tmp_path: Path
) -> None:
    one = overhead._round(tmp_path, settings, 1)
    assert one.ours.loss == pytest.approx(one.rival.loss, rel=0.2)
    assert min(one.ours.startup_s, one.rival.startup_s, one.ratio) > 0


def test_start_up_and_steady_state_are_separate(tmp_path: Path) -> None:
    (tmp_path / "train/a").mkdir(parents=True)
    for number in range(70):
        (tmp_path / f"train/a/{number}.png").touch()
    epochs = [
        Epoch(time_s=1010.0, images_per_s=32.0, loss=3.0),
        Epoch(1011.0, 64.0, 2.0),
        Epoch(1012.0, 60.0, 1.5),
    ]
    side = overhead._side(1000.0, epochs, {"data": str(tmp_path), "batch_size": 32, "epochs": 3})
    # 64 of 70 images in two batches: 2 s.
    assert side == Side(startup_s=8.0, images_per_s=(64.0, 60.0), loss=1.5)


def test_the_exit_code_shows_whether_the_bar_is_met(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(overhead, "train_ours", lambda *_: SIDE)
    monkeypatch.setattr(overhead, "_train_rival", lambda *_: replace(SIDE, images_per_s=(125.0,)))
    assert Round(SIDE, SIDE).ratio == 1
    assert main(["--rounds", "2", "--json", str(tmp_path / "x.json")]) == 1
    out = capsys.readouterr().out
    assert "round 2: ours 100.0 images/s, rival 125.0, ratio 0.800" in out
    assert (
        "steady state, ours / bare DDP: 0.800 (0.800..0.800 in 2 rounds); bar >= 0.98: MISSED"
        in out
    )
    document = json.loads((tmp_path / "x.json").read_text())
    assert len(document["rounds"]) == 2
    assert document["ratio"]["median"] == pytest.approx(0.8)
    monkeypatch.setattr(overhead, "_train_rival", lambda *_: SIDE)
    assert main(["--rounds", "1"]) == 0


@pytest.mark.parametrize("arguments", [["--epochs", "1"], ["--rounds", "0"], ["--rounds", "x"]])
def test_too_few_epochs_or_rounds_are_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "must be a whole number from" in capsys.readouterr().err
