"""Parameters and FLOPs of the published rows equal the published numbers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from torch import nn, ones

from cat_model.attention import Cpsa, Ipsa
from pipelines.complexity.__main__ import main, table
from pipelines.complexity.rows import Row
from pipelines.openmmlab.counting import counting

PUBLISHED = {
    # backbone, method, multi-scale training, schedule: parameters in millions, FLOPs in billions
    ("cat_small", "mask_rcnn", True, "1x"): (57, 295),
    ("cat_base", "mask_rcnn", True, "1x"): (71, 356),
    ("cat_small", "fcos", False, "1x"): (45, 245),
    ("cat_base", "fcos", False, "1x"): (59, 303),
    ("cat_small", "atss", False, "1x"): (45, 243),
    ("cat_base", "atss", False, "1x"): (59, 303),
    ("cat_small", "retinanet", False, "1x"): (47, 276),
    ("cat_base", "retinanet", False, "1x"): (62, 337),
    ("cat_small", "cascade_rcnn", False, "1x"): (82, 270),
    ("cat_base", "cascade_rcnn", False, "1x"): (96, 330),
    ("cat_small", "cascade_rcnn", True, "1x"): (82, 270),
    ("cat_base", "cascade_rcnn", True, "1x"): (96, 330),
    ("cat_small", "semantic_fpn", False, "80k"): (41, 214),
    ("cat_base", "semantic_fpn", False, "80k"): (55, 276),
    ("cat_small", "semantic_fpn", False, "160k"): (41, 214),
    ("cat_base", "semantic_fpn", False, "160k"): (55, 276),
}
COUNTED_OTHERWISE = {
    # ATSS and the cat_base row of FCOS agree with the count; nothing in this row could cost 2 G
    # more
    ("cat_small", "fcos", False, "1x"): 243,
    # the count is 355.49; the published 356 looks as if rounded twice
    ("cat_base", "mask_rcnn", True, "1x"): 355,
}


def test_command_prints_the_published_parameters_and_flops(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--json"]) == 0
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["rows"]
    by_name = {
        (row["backbone"], row["method"], row["multi_scale"], row["schedule"]): row for row in rows
    }
    assert by_name.keys() == PUBLISHED.keys()
    for name, row in by_name.items():
        params_m, flops_g = PUBLISHED[name]
        assert round(row["params_m"]) == params_m, name
        assert round(row["flops_g"]) == COUNTED_OTHERWISE.get(name, flops_g), name


def test_table_has_a_line_for_each_row() -> None:
    row = Row(
        "cat_base", "mask_rcnn", multi_scale=True, schedule="1x", params_m=71.04, flops_g=355.5
    )
    head, line = table([row]).splitlines()
    assert head.split() == [
        "backbone",
        "method",
        "multi_scale",
        "schedule",
        "params,",
        "M",
        "FLOPs,",
        "G",
    ]
    assert line.split() == ["cat_base", "mask_rcnn", "yes", "1x", "71.04", "355.50"]


def test_layers_are_counted_by_mmcvs_rules() -> None:
    network = nn.Sequential(
        nn.Conv2d(4, 6, 3, padding=1, groups=2), nn.GroupNorm(2, 6), nn.ReLU(), nn.GELU()
    )
    with counting(network) as count:
        network(ones(1, 4, 5, 5))
        network(ones(1, 4, 5, 5))
    convolved = 6 * 25
    assert count.macs == 2 * convolved * (9 * 2 + 1 + 2 + 1)
    network(ones(1, 4, 5, 5))
    assert count.macs == 2 * convolved * (9 * 2 + 1 + 2 + 1)


@pytest.mark.parametrize("shape", [(1, 8, 7, 16), (1, 14, 7, 16), (1, 2, 7, 7, 16)])
def test_attention_counts_whole_windows(shape: tuple[int, ...]) -> None:
    """A map of 8 x 7 positions takes two windows of 49, because the reference pads it."""
    attention: dict[str, Any] = {
        "window": 7,
        "qkv_bias": True,
        "qk_scale": None,
        "attn_drop": 0.0,
        "proj_drop": 0.0,
    }
    ipsa, cpsa = Ipsa(16, num_heads=2, **attention), Cpsa(**attention)
    nn.init.zeros_(ipsa.relative_position_bias_table)
    for layer, macs in ((ipsa, 98 * 4 * 16 * 16), (cpsa, 98 * 16 * 4 * 49)):
        with counting(nn.ModuleList([layer])) as count:
            layer(ones(shape))
        assert count.macs == macs
