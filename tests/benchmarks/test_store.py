"""`python -m benchmarks.store`: what it compares and prints. No test asserts a time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import store
from benchmarks.store import Case, Transfer, main
from benchmarks.store_sides import Cost

CASE = Case("one large file", 1, 2**30)


def _transfer(direction: str, **sides: Cost) -> Transfer:
    return Transfer(CASE, direction, {name: (cost,) for name, cost in sides.items()})


def test_costs_are_compared_with_their_bars(capsys: pytest.CaptureFixture[str]) -> None:
    rivals = {
        "boto3": Cost(10.0, 2.0, 1),
        "aws": Cost(9.0, 4.0, 1),
        "sha256": Cost(0.5, 0.5, 1),
    }
    assert store._is_met(_transfer("up", ours=Cost(10.0, 2.8, int(200e6), 0.1), **rivals))
    out = capsys.readouterr().out
    assert "CPU / (boto3 + sha256): 1.12; bar <= 1.15: met" in out
    assert "speed / faster rival: 0.90; bar >= 0.9: met" in out
    assert "second publish / first: 0.0100; bar <= 0.02: met" in out
    assert not store._is_met(_transfer("down", ours=Cost(20.0, 2.8, int(600e6)), **rivals))
    assert capsys.readouterr().out.count("MISSED") == 2


def test_all_sides_transfer_the_same_files(
    s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store.shutil, "which", lambda _: None)  # type: ignore[attr-defined]
    options = ["--rounds", "1", "--large-mib", "17", "--small-files", "5"]
    main([*options, "--json", str(tmp_path / "costs.json")])
    transfers = json.loads((tmp_path / "costs.json").read_text())
    assert [one["direction"] for one in transfers] == ["up", "down"] * 2
    assert all(len(one["costs"]["ours"]) == 1 for one in transfers)
    assert all(sorted(one["costs"]) == ["boto3", "ours", "sha256"] for one in transfers)
