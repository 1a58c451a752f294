"""docs/model.md matches the code: its examples run, and its tables and numbers are correct."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

from cat_model import CONFIGS, Cat, summary
from cat_model.complexity import PUBLISHED, complexity
from cat_model.timm_models import default_cfgs

DOCS_DIR = Path(__file__).parents[2] / "docs"
PAGE = (DOCS_DIR / "model.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def code_name(block: str) -> str:
    """The block's first line that is neither empty nor an import."""
    lines = (
        line for line in block.splitlines() if line and not line.startswith(("import", "from"))
    )
    return next(lines)[:60]


def test_the_page_has_eight_code_blocks() -> None:
    assert len(BLOCKS) == 8


@pytest.mark.parametrize("block", BLOCKS, ids=code_name)
def test_code_on_the_page_runs(block: str) -> None:
    exec(compile(block, "docs/model.md", "exec"), {})


def test_the_summary_on_the_page_equals_the_output(
    capsys: pytest.CaptureFixture[str],
) -> None:
    ((command, output),) = re.findall(
        r"```console\n\$ python -m cat_model\.summary (.*?)\n(.*?)```", PAGE, re.DOTALL
    )
    assert summary.main(shlex.split(command)) == 0
    assert capsys.readouterr().out == output


@pytest.mark.parametrize("name", CONFIGS)
def test_the_table_of_sizes_matches_the_configs(name: str) -> None:
    (row,) = re.findall(rf"^\| `{name}` \|(.*)\|$", PAGE, re.MULTILINE)
    config, published = CONFIGS[name], PUBLISHED[name]
    counted = complexity(config, image_hw=(224, 224), num_classes=1000)
    assert [cell.strip() for cell in row.split("|")] == [
        str(config.embed_dim),
        ", ".join(map(str, config.depths)),
        ", ".join(map(str, config.num_heads)),
        str(config.drop_path_rate),
        f"{counted.params:,}",
        f"{published.params_m} M",
        f"{counted.conventions['products'] / 1e9:.3f} G",
        f"{published.flops_g} G",
    ]


@pytest.mark.parametrize(
    ("fields", "convention", "params_m", "flops_g"),
    [
        (
            {"embed_dim": 88, "depths": (1, 2, 1, 3), "mlp_ratio": 2.0},
            "reference",
            "36.08",
            "3.894",
        ),
        (
            {"embed_dim": 64, "depths": (1, 1, 4, 3), "num_heads": (2, 4, 8, 16)},
            "modules",
            "35.83",
            "3.904",
        ),
    ],
)
def test_sizes_of_the_cat_tiny_v2_guesses_match_the_page(
    fields: dict[str, Any], convention: str, params_m: str, flops_g: str
) -> None:
    heads = fields.pop("num_heads", (2, 4, 8, 16))
    config = replace(CONFIGS["cat_tiny"], num_heads=heads, **fields)
    counted = complexity(config, image_hw=(224, 224), num_classes=1000)
    assert f"{counted.params / 1e6:.2f}" == params_m
    assert f"{counted.conventions[convention] / 1e9:.3f}" == flops_g
    assert f"({params_m} M, {flops_g} G)" in PAGE


def test_no_name_is_registered_for_cat_tiny_v2() -> None:
    assert (
        {name.split(".")[0] for name in default_cfgs}
        == set(CONFIGS)
        == {"cat_tiny", "cat_small", "cat_base"}
    )


def test_nan_in_an_image_stays_in_its_own_logits() -> None:
    model = Cat(replace(CONFIGS["cat_tiny"], img_size=56, embed_dim=16), num_classes=3).eval()
    images = torch.randn(3, 3, 40, 70)
    with torch.no_grad():
        expected = model(images)
        images[1, 0, 20, 30] = torch.nan
        logits = model(images)
    assert logits[1].isnan().all()
    torch.testing.assert_close(logits[[0, 2]], expected[[0, 2]])


def test_the_picture_exists_and_loads_no_other_file() -> None:
    (target,) = re.findall(r"!\[.+\]\((.+)\)", PAGE)
    picture = (DOCS_DIR / target).read_text()
    assert ElementTree.fromstring(picture).tag == "{http://www.w3.org/2000/svg}svg"
    assert "prefers-color-scheme:dark" in picture
    assert "href" not in picture


def test_links_and_named_tests_of_the_page_exist() -> None:
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", PAGE) if "://" not in target]
    named = re.findall(r"`(tests/[\w/]+\.py)`", PAGE)
    assert [target for target in targets if not (DOCS_DIR / target).exists()] == []
    assert [name for name in named if not (DOCS_DIR.parent / name).exists()] == []
