"""`python -m benchmarks.model_speed` on a toy setting: what it prints, writes and refuses.

No test asserts a time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.speed.settings import parse_settings
from cat_model import CONFIGS
from cat_model.complexity import complexity

ROOT = Path(__file__).parents[2]
SWIN = "swin_tiny_patch4_window7_224"
TOY = [
    "--models",
    "cat_tiny",
    "--rivals",
    SWIN,
    "--img-size",
    "64",
    "--rounds",
    "1",
    "--threads",
    "1",
]


def measured(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.model_speed", "--device", "cpu", *TOY, *arguments]
    return subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """The printed text and the JSON document of a run."""
    path = tmp_path_factory.mktemp("speed") / "speed.json"
    done = measured("--batch-sizes", "1", "--checkpointing", "--json", str(path))
    assert done.returncode == 0
    assert done.stderr == ""
    return done.stdout, json.loads(path.read_text())


def test_each_model_runs_in_each_case_and_way(toy: tuple[str, dict[str, Any]]) -> None:
    results = toy[1]["results"]
    keys = [(r["mode"], r["precision"], r["run"], r["model"]) for r in results]
    ways = [("forward", "eager"), ("train", "eager"), ("train", "checkpointed")]
    assert sorted(keys) == sorted(
        (mode, precision, run, model)
        for mode, run in ways
        for precision in ("fp32", "bf16")
        for model in ("cat_tiny", SWIN)
    )
    assert toy[1]["skipped"] == []


def test_the_document_names_the_machine_and_the_settings(toy: tuple[str, dict[str, Any]]) -> None:
    document = toy[1]
    assert document["machine"]["threads"] == 1
    assert document["machine"]["torch"] == torch.__version__
    assert document["command"].startswith(
        "python -m benchmarks.model_speed --device cpu --models cat_tiny"
    )
    assert {"device", "cpu", "cores", "timm", "python"} <= document["machine"].keys()
    assert document["settings"]["img_size"] == 64
    assert document["roofs"]["fp32"]["matmul_flops_per_s"] > 1e8
    assert document["date"].endswith("+00:00")


def test_ratios_follow_from_the_rates(toy: tuple[str, dict[str, Any]]) -> None:
    """The run has one round, so its ratio is also the ratio of the medians."""
    results = toy[1]["results"]
    rates = {
        (r["mode"], r["precision"], r["run"], r["model"]): r["images_per_s"]["median"]
        for r in results
    }
    for r in results:
        rate, case = r["images_per_s"]["median"], (r["mode"], r["precision"])
        assert r["ratio_to_rival"]["median"] == pytest.approx(rate / rates[*case, r["run"], SWIN])
        if r["run"] == "eager":
            assert r["ratio_to_eager"] is None
        else:
            assert r["ratio_to_eager"]["median"] == pytest.approx(
                rate / rates[*case, "eager", r["model"]]
            )


def test_rates_and_shares_follow_from_the_counts_of_a_step(toy: tuple[str, dict[str, Any]]) -> None:
    document = toy[1]
    for r in document["results"]:
        roofs, (step_s,) = document["roofs"][r["precision"]], r["step_s"]
        assert r["images_per_s"]["median"] == pytest.approx(r["batch_size"] / step_s)
        assert r["flops_per_s"] == pytest.approx(r["step"]["flops"] / step_s)
        assert r["bytes_per_s"] == pytest.approx(r["step"]["moved_bytes"] / step_s)
        assert r["share_of_matmul"] == pytest.approx(r["flops_per_s"] / roofs["matmul_flops_per_s"])
        assert r["share_of_matmul"] > 0
        assert r["share_of_copy"] > 0  # a cache can raise it above 1


def test_a_training_step_counts_three_forward_passes(
    toy: tuple[str, dict[str, Any]],
) -> None:
    macs = complexity(CONFIGS["cat_tiny"], image_hw=(64, 64), num_classes=1000).conventions[
        "products"
    ]
    flops = {(r["mode"], r["model"]): r["step"]["flops"] for r in toy[1]["results"]}
    assert flops["forward", "cat_tiny"] == 2 * macs
    assert flops["train", "cat_tiny"] == 6 * macs
    assert flops["train", SWIN] == 3 * flops["forward", SWIN] > 0


def test_training_needs_more_memory_than_a_forward_pass(
    toy: tuple[str, dict[str, Any]],
) -> None:
    steps = {
        (r["mode"], r["run"], r["model"]): r["step"]
        for r in toy[1]["results"]
        if r["precision"] == "fp32"
    }
    for model in ("cat_tiny", SWIN):
        forward, train = steps["forward", "eager", model], steps["train", "eager", model]
        assert 0 < forward["peak_bytes"] < train["peak_bytes"]
        assert 2.5 < train["held_bytes"] / forward["held_bytes"] < 3.01  # AdamW's two moments
        assert steps["train", "checkpointed", model]["peak_bytes"] <= train["peak_bytes"]


def test_the_tables_have_a_line_per_result_in_120_columns(
    toy: tuple[str, dict[str, Any]],
) -> None:
    printed, document = toy
    lines = printed.splitlines()
    assert max(map(len, lines)) <= 120
    assert sum(line.startswith(("cat_tiny ", SWIN)) for line in lines) == len(document["results"])
    assert "train, bf16, batch 1" in lines


def test_entries_without_compiler_or_memory_are_skipped(tmp_path: Path) -> None:
    done = measured(
        *(
            "--rivals",
            "--mode",
            "forward",
            "--precision",
            "fp32",
            "--batch-sizes",
            "1",
            str(10**10),
            "--compile",
        ),
        CXX=str(tmp_path / "no-compiler"),
        TORCHINDUCTOR_CACHE_DIR=str(tmp_path),  # else torch finds code that it compiled earlier
    )
    assert done.returncode == 0
    assert done.stderr == ""
    assert "skipped: cat_tiny, compiled: cannot be compiled here: " in done.stdout
    assert "skipped: cat_tiny, eager: out of memory" in done.stdout
    assert [
        line.split()[:2] for line in done.stdout.splitlines() if line.startswith("cat_tiny ")
    ] == [["cat_tiny", "eager"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "cat_tin"], "--models: invalid choice: 'cat_tin'"),
        (["--rivals", "swin_tiny"], "--rivals: timm has no model 'swin_tiny', did you mean 'swin_"),
        (["--mode", "backward"], "--mode: invalid choice: 'backward'"),
        (["--batch-sizes", "8", "0"], "--batch-sizes: must be a whole number from 1, got '0'"),
        (["--rounds", "-1"], "--rounds: must be a whole number from 1, got '-1'"),
        (
            ["--img-size", "100"],
            "--img-size: must be a multiple of 32 pixels, the stride of the models, got 100",
        ),
        (["--device", "cpu", "--tf32"], "--tf32: needs a CUDA device; leave it out"),
        (
            ["--device", "cpu", "--compile", "reduce-overhead"],
            "--compile reduce-overhead: needs --device cuda and --mode forward",
        ),
        (
            ["--mode", "forward", "--checkpointing"],
            "--checkpointing: has no effect on a forward pass; use --mode train",
        ),
        (
            ["--json", "/no/such/folder/speed.json"],
            "--json: must be a file in a writable folder, got '/no",
        ),
    ],
)
def test_wrong_arguments_exit_with_2_and_advice(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as exit_:
        parse_settings(arguments)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_device_is_refused_before_a_model_is_built() -> None:
    done = measured("--device", "cuda")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "--device cuda: torch finds no CUDA device here; use --device cpu" in done.stderr
