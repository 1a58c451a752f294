"""`python -m benchmarks.start`: how it counts and what it prints. No test asserts a time."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import start
from benchmarks.start import Cost, main

COST = Cost(wall_s=12.0, cpu_s=13.0, scores={"top1": 90.0})
BURN = "import time\nwhile time.process_time() < 1: pass"


def test_the_cpu_seconds_of_a_detached_process_count() -> None:
    with start._cpu_meter() as spent_s:
        subprocess.run([sys.executable, "-c", BURN], start_new_session=True, check=True)
        assert spent_s() >= 0.9


def test_costs_are_medians_and_compared_with_each_bar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    walls = iter([12.0, 20.0, 13.0])
    monkeypatch.setattr(start, "_prepare", lambda _: None)
    monkeypatch.setattr(
        start, "_evaluate_ours", lambda _: replace(COST, wall_s=next(walls), cpu_s=14.5)
    )
    monkeypatch.setattr(start, "_evaluate_rival", lambda _: replace(COST, wall_s=8.0, cpu_s=9.0))
    assert main(["--rounds", "3", "--json", str(tmp_path / "start.json")]) == 0
    out = capsys.readouterr().out
    assert (
        "medians of 3 rounds: ours 13.0 s and 14.5 CPU-s, plain process 8.0 s and 9.0 CPU-s" in out
    )
    assert "added: 5.0 s and 5.5 CPU-s; bars <= 15 s: met, <= 14 CPU-s: MISSED" in out
    assert len(json.loads((tmp_path / "start.json").read_text())["rounds"]) == 3


def test_different_scores_of_the_sides_exit_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "_prepare", lambda _: None)
    monkeypatch.setattr(start, "_evaluate_ours", lambda _: COST)
    monkeypatch.setattr(start, "_evaluate_rival", lambda _: replace(COST, scores={"top1": 80.0}))
    assert main(["--rounds", "1"]) == 1


@pytest.mark.stress
def test_both_sides_evaluate_to_the_same_scores(tmp_path: Path) -> None:
    start._prepare(tmp_path)
    one = start._round(tmp_path, 1)
    assert one.ours.scores == one.rival.scores
    assert min(one.ours.cpu_s, one.rival.cpu_s) > 0
