"""`python -m benchmarks.downstream_gpu`, small and on a CPU: what it measures, in which order.

No test asserts a time.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.downstream_gpu import _parse, cases, main, num_anchors
from benchmarks.training.downstream import Case, Step
from benchmarks.training.shares import GROUPS

# DDP prints this advice for Semantic FPN.
pytestmark = pytest.mark.filterwarnings("ignore:.*find_unused_parameters=True was specified")


@pytest.mark.slow
def test_each_case_has_a_rate_a_peak_and_shares(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "--device",
        "cpu",
        "--methods",
        "semantic_fpn",
        "--backbones",
        "cat_tiny",
        "--precisions",
        "fp32",
    ]
    small = ["--img-scale", "32", "32", "--batch-size", "2", "--no-compile", "--no-ddp"]
    assert main([*words, *small, "--json", str(tmp_path / "found.json")]) == 0
    document = json.loads((tmp_path / "found.json").read_text())
    assert document["skipped"] == []
    (result,) = document["results"]
    assert set(result["shares"]) == set(GROUPS)
    assert result["images_per_s"]["median"] > 0
    assert set(document["focal_loss_ms"]) == {"plain", "torchvision"}
    held = sum(
        tensor.numel()
        for tensor in Step(_case("semantic_fpn"), torch.device("cpu")).model.parameters()
    )
    # Weights, AdamW's two averages, and gradients of nearly all weights, 4 bytes each.
    assert result["peak_bytes"] > 15 * held
    assert "semantic_fpn  cat_tiny     2 of 32x32  fp32" in capsys.readouterr().out


def test_a_detector_step_updates_backbone_and_head() -> None:
    step = Step(_case("retinanet"), torch.device("cpu"))
    before = {name: tensor.clone() for name, tensor in step.model.named_parameters()}
    step()
    still = {
        name for name, tensor in step.model.named_parameters() if torch.equal(tensor, before[name])
    }
    assert {name.partition(".")[0] for name in before.keys() - still} == {
        "backbone",
        "neck",
        "bbox_head",
    }
    assert {"backbone.norm0.weight", "backbone.norm0.bias"} <= still


def test_the_most_important_cases_come_first() -> None:
    options = _parse(
        ["--methods", "retinanet", "mask_rcnn", "--backbones", "cat_small", "cat_base"]
    )
    found = [
        (case.method, case.backbone, case.precision, case.ddp, case.is_compiled)
        for case in cases(options)
    ]
    plain = [one for one in found if one[3] == "none" and not one[4]]
    assert found[:8] == plain
    assert plain[:3] == [
        ("retinanet", "cat_small", "fp32", "none", False),
        ("mask_rcnn", "cat_small", "fp32", "none", False),
        ("retinanet", "cat_small", "bf16", "none", False),
    ]
    assert [one[3] for one in found[8:11]] == ["search", "all", "search"]
    assert [one[:3] for one in found[11:]] == [
        (method, "cat_small", "bf16") for method in ("retinanet", "mask_rcnn")
    ]


def test_anchors_are_counted_over_all_pyramid_levels() -> None:
    assert num_anchors((800, 1088)) == 9 * (100 * 136 + 50 * 68 + 25 * 34 + 13 * 17 + 7 * 9)


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["--img-scale", "50", "64"], "sides must be multiples of 32"),
        (["--img-scale", "32", "64"], "semantic_fpn needs equal sides"),
        (["--json", "/nowhere/found.json"], "/nowhere is not a writable folder"),
    ],
)
def test_wrong_arguments_are_refused(
    words: list[str], fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert fault in capsys.readouterr().err


def _case(method: str) -> Case:
    return Case(method, "cat_tiny", 2, (32, 32), "fp32")
