"""`python -m benchmarks.data_loading` on a toy setting: what it prints, writes and refuses.

No test asserts a time.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.loading.contestants import RIVAL, Contestant
from benchmarks.loading.photographs import encode_jpeg, photograph
from benchmarks.loading.results import results_of, table
from benchmarks.loading.settings import parse_settings

ROOT = Path(__file__).parents[2]
TOY = ["--images", "8", "--batch-size", "4", "--rounds", "2", "--img-size", "64", "--device", "cpu"]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """The printed text and the JSON document of a run."""
    path = tmp_path_factory.mktemp("loading") / "loading.json"
    command = [sys.executable, "-m", "benchmarks.data_loading", *TOY, "--json", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr == ""
    return done.stdout, json.loads(path.read_text())


def test_each_contestant_is_timed_in_each_round(toy: tuple[str, dict[str, Any]]) -> None:
    results = {result["name"]: result for result in toy[1]["results"]}
    assert list(results) == [RIVAL, "reference", "fast", "device"]
    assert all(
        len(result["image_cpu_s"]) == 2 and min(result["image_cpu_s"]) > 1e-5
        for result in results.values()
    )
    assert {name: result["bar"] for name, result in results.items() if result["bar"]} == {
        "fast": 1.15,
        "device": 2.0,
    }


def test_the_document_names_the_machine_and_the_settings(toy: tuple[str, dict[str, Any]]) -> None:
    document = toy[1]
    assert document["command"].startswith("python -m benchmarks.data_loading --images 8")
    assert document["machine"]["threads"] == 1
    assert document["settings"]["img_size"] == 64
    assert 80_000 < document["file_bytes"] < 130_000
    assert document["batch_s"]["cpu"]["median"] > 1e-6


def test_the_output_has_ratios_bars_and_the_batch_part(toy: tuple[str, dict[str, Any]]) -> None:
    lines = toy[0].splitlines()
    assert any(line.startswith(RIVAL) for line in lines)
    assert any(
        line.startswith("device ") and "2.00" in line and line.endswith(("met", "MISSED"))
        for line in lines
    )
    assert lines[-1].startswith("the batch's part of `device` on cpu: ")
    assert max(map(len, lines)) <= 120


def test_the_median_ratio_is_compared_with_the_bar() -> None:
    times = {RIVAL: [3.0, 4.0, 9.0], "fast": [3.0, 3.0, 3.0], "device": [1.0, 2.5, 5.0]}
    fast, device = results_of(times)[1:]
    assert fast.ratio_to_rival is not None
    assert device.ratio_to_rival is not None
    assert fast.ratio_to_rival.median == 4 / 3
    assert fast.is_met is True
    assert device.ratio_to_rival.median == 1.8
    assert device.is_met is False
    assert [line.split()[-1] for line in table(results_of(times)).splitlines()[2:]] == [
        "met",
        "MISSED",
    ]


class Busy:
    """A loader that uses some CPU time of this process, and then sleeps."""

    def __iter__(self) -> Any:
        until = time.process_time() + 0.05
        while time.process_time() < until:
            pass
        time.sleep(0.2)
        return iter([None])


def test_cpu_time_counts_work_but_not_waiting() -> None:
    busy: Any = Busy()
    contestant = Contestant("busy", busy, lambda batch: batch)
    contestant.start()
    assert 0.045 < contestant.pass_cpu_s() < 0.15


def test_a_generated_photograph_depends_only_on_its_seed() -> None:
    one, same, other = (encode_jpeg(photograph(np.random.default_rng(seed))) for seed in (1, 1, 2))
    assert one == same != other
    pixels = np.asarray(Image.open(BytesIO(one)))
    assert pixels.shape == (375, 500, 3)
    assert pixels.std() > 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "100"], "--images: must be a multiple of --batch-size, 64, got 100"),
        (["--rounds", "0"], "--rounds: must be a whole number from 1, got '0'"),
        (
            ["--json", "/nowhere/at.json"],
            "--json: must be a file in a writable folder",
        ),
    ],
)
def test_wrong_arguments_are_refused(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse_settings([*arguments, "--device", "cpu"])
    assert message in capsys.readouterr().err
