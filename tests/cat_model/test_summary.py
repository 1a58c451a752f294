"""`python -m cat_model.summary`: its output and its error messages."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cat_model import CONFIGS
from cat_model.summary import main

TABLE = """\
cat_small: image of 3 x 224 x 224, 1000 classes
parameters in millions, multiply-adds (MAC) in billions

part           map  windows  channels  heads  groups  params    MAC   share
patch_embed  56x56                 96                  0.306  0.014    0.2%
stages.0     56x56       64        96      3       1   0.309  1.081   17.8%
stages.1     28x28       16       192      6       1   1.273  1.046   17.3%
stages.2     14x14        4       384     12       3  14.534  2.923   48.2%
stages.3       7x7        1       768     24       1  20.102  0.997   16.5%
head                             1000                  0.771  0.001    0.0%
total                                                 37.294  6.063  100.0%

                                                             published
parameters                                           37.294         37   agrees
MAC: products and norms, as the reference's flops()   6.068        5.9  differs
MAC: all products, including attention                6.063        5.9  differs
MAC: convolutions, linear layers and norms only       5.883        5.9   agrees
"""


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The only line of the error message, after exit code 2."""
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    streams = capsys.readouterr()
    assert exit_.value.code == 2
    assert streams.out == ""
    return streams.err.splitlines()[-1]


def test_command_prints_the_table() -> None:
    command = [sys.executable, "-m", "cat_model.summary", "cat_small", "--img-size", "224"]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr == ""
    assert done.stdout == TABLE


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("size", ["1", "224", "800x1280", "2048x2048"])
def test_no_line_is_longer_than_80_columns(
    capsys: pytest.CaptureFixture[str], name: str, size: str
) -> None:
    lines = printed(capsys, name, "--img-size", size).splitlines()
    assert max(map(len, lines)) <= 80
    assert [line for line in lines if line != line.rstrip()] == []


@pytest.mark.parametrize("words", [["200x300"], ["200", "300"]])
def test_size_is_height_and_width(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    out = printed(capsys, "cat_tiny", "--img-size", *words)
    assert "image of 3 x 200 x 300" in out
    assert re.search(r"^stages\.1 +25x38 +24 ", out, re.MULTILINE)


@pytest.mark.parametrize("option", [("--img-size", "448"), ("--num-classes", "10")])
def test_other_sizes_and_heads_have_no_published_figures(
    capsys: pytest.CaptureFixture[str], option: tuple[str, str]
) -> None:
    assert "published" not in printed(capsys, "cat_small", *option)
    assert json.loads(printed(capsys, "cat_small", *option, "--json"))["published"] is None


def test_zero_classes_mean_no_classifier(capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(capsys, "cat_small", "--num-classes", "0")
    assert "224, no classifier" in out
    assert re.search(r"^head +768 +0\.002 +0\.000 +0\.0%$", out, re.MULTILINE)


def test_json_has_whole_numbers_by_convention(capsys: pytest.CaptureFixture[str]) -> None:
    content: dict[str, Any] = json.loads(printed(capsys, "cat_base", "--json"))
    assert content["params"] == 51_531_922
    assert content["macs"] == {
        "reference": 8_934_680_064,
        "products": 8_928_056_832,
        "modules": 8_703_130_368,
    }
    assert content["published"] == {"params_m": 52, "flops_g": 8.9}
    assert content["image_hw"] == [224, 224]
    assert sum(part["params"] for part in content["parts"]) == content["params"]
    assert content["parts"][3]["groups"] == {"num_groups": 6, "num_heads": 12, "num_windows": 4}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["cat_smal"],
            (
                "unknown model 'cat_smal', did you mean 'cat_small'? The models are cat_tiny, "
                "cat_small, "
            ),
        ),
        (["cat_tiny_v2"], "unknown model 'cat_tiny_v2', did you mean 'cat_tiny'? The models are "),
        (["resnet50"], "unknown model 'resnet50'. The models are cat_tiny, cat_small, cat_base"),
        ([], "arguments are required: MODEL"),
        (
            ["cat_tiny", "--img-size", "0"],
            "--img-size: '0' is not a size: after the model's name give SIDE, HEIGHT ",
        ),
        (["cat_tiny", "--img-size", "224", "-7"], "--img-size: '-7' is not a size: "),
        (["cat_tiny", "--img-size", "224x"], "--img-size: '224x' is not a size: "),
        (["cat_tiny", "--img-size", "22.4"], "--img-size: '22.4' is not a size: "),
        (["cat_tiny", "--img-size", "9" * 5000], "is not a size: "),
        (
            ["cat_tiny", "--img-size", "1x2", "3"],
            "--img-size: give one side or two, height and width, got 1 2 3",
        ),
        (
            ["--img-size", "224", "cat_tiny"],
            "--img-size: 'cat_tiny' is not a size: after the model's name ",
        ),
        (
            ["cat_tiny", "--num-classes", "-1"],
            "--num-classes: '-1' is not a number of classes: give 0 (no classifier)",
        ),
    ],
)
def test_invalid_command_line_error_says_what_to_do(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert message in refused(capsys, *arguments)
