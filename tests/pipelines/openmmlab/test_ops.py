"""The ops adapter, called through mmcv's own functions, equals references in plain Python."""

from __future__ import annotations

import importlib.util
import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor
from torch._dynamo.utils import counters

from pipelines.openmmlab import library, ops
from pipelines.openmmlab.kernels import (
    BACKED,
    MissingOpError,
    compiled_focal_loss,
    focal_loss,
    focal_loss_gradient,
)

with library.quiet_import():
    import mmcv
    from mmcv.ops import box_iou_rotated, roi_align, sigmoid_focal_loss, soft_nms
    from mmcv.ops import nms as mmcv_nms


def test_mmcv_imports_the_adapter() -> None:
    assert sys.modules["mmcv._ext"].nms is BACKED["nms"]


def test_install_is_idempotent_and_adds_the_last_finder() -> None:
    ops.install_ops()
    ops.install_ops()
    assert sys.meta_path.count(ops.OpsFinder) == 1


def test_compiled_extension_takes_precedence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = tmp_path / "_ext.py"
    compiled.write_text("nms = 'compiled'\n")
    monkeypatch.delitem(sys.modules, "mmcv._ext")
    found = importlib.util.find_spec("mmcv._ext")
    assert found is not None
    assert found.origin == "pipelines.openmmlab.ops"
    monkeypatch.setattr(mmcv, "__path__", [*mmcv.__path__, str(tmp_path)])
    importlib.invalidate_caches()
    found = importlib.util.find_spec("mmcv._ext")
    assert found is not None
    assert found.origin == str(compiled)


def test_missing_op_is_named_with_what_to_do() -> None:
    boxes = torch.rand(2, 5)
    with pytest.raises(
        MissingOpError, match=r"box_iou_rotated .*pip install --no-build-isolation .*onedl-mmcv"
    ):
        box_iou_rotated(boxes, boxes)


def test_max_pooled_roi_align_is_refused() -> None:
    with pytest.raises(MissingOpError, match="pool_mode='max'"):
        roi_align(
            torch.rand(1, 1, 8, 8), torch.tensor([[0.0, 0, 0, 4, 4]]), (2, 2), 1.0, 2, "max", True
        )


def test_missing_op_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(MissingOpError("carafe_forward")))
    assert error.op == "carafe_forward"
    assert str(error) == str(MissingOpError("carafe_forward"))


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("threshold", [0.3, 0.7])
def test_nms_equals_greedy_reference(offset: int, threshold: float) -> None:
    boxes, scores = _random_boxes(60)
    dets, kept = mmcv_nms(boxes, scores, threshold, offset=offset)
    left = sorted(range(len(boxes)), key=lambda i: -float(scores[i]))
    expected = []
    while left:
        best, *rest = left
        expected.append(best)
        left = [i for i in rest if _iou(boxes[best], boxes[i], offset) <= threshold]
    assert kept.tolist() == expected
    torch.testing.assert_close(dets, torch.cat([boxes[kept], scores[kept, None]], 1))


@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
def test_soft_nms_equals_reference(method: str) -> None:
    boxes, scores = _random_boxes(40)
    dets, kept = soft_nms(boxes, scores, 0.3, sigma=0.5, min_score=0.05, method=method)
    left, now = list(range(len(boxes))), scores.tolist()
    expected, decayed = [], []
    while left:
        best = max(left, key=lambda i: now[i])
        left.remove(best)
        expected.append(best)
        decayed.append(now[best])
        for i in left:
            now[i] *= _soft_factor(_iou(boxes[best], boxes[i], 0), method)
        left = [i for i in left if now[i] >= 0.05]
    assert kept.tolist() == expected
    np.testing.assert_allclose(dets[:, 4], decayed, rtol=1e-4)


@pytest.mark.parametrize("aligned", [True, False])
def test_roi_align_equals_bilinear_reference(aligned: bool) -> None:
    torch.manual_seed(1)
    maps = torch.rand(2, 3, 12, 10)
    rois = torch.tensor([[0, 4.0, 6, 30, 40], [1, 0, 0, 20, 16]])
    pooled = roi_align(maps, rois, (3, 2), 0.25, 2, "avg", aligned)
    for k, roi in enumerate(rois):
        expected = _pooled(
            maps[int(roi[0])], roi[1:] * 0.25 - (0.5 if aligned else 0.0), (3, 2), aligned
        )
        torch.testing.assert_close(pooled[k], expected, rtol=1e-4, atol=1e-5)


def test_roi_align_backward_is_the_adjoint_of_its_forward() -> None:
    torch.manual_seed(2)
    maps = torch.rand(2, 3, 12, 10, requires_grad=True)
    rois = torch.tensor([[0, 4.0, 6, 30, 40], [1, 0, 0, 20, 16], [1, 3, 3, 9, 30]])
    pooled = roi_align(maps, rois, (7, 7), 0.25, 0, "avg", True)
    weights = torch.rand_like(pooled)
    (gradient,) = torch.autograd.grad((pooled * weights).sum(), maps)
    assert gradient.abs().sum() > 0
    torch.testing.assert_close((gradient * maps).sum(), (pooled * weights).sum(), rtol=1e-4, atol=0)


def test_roi_align_keeps_half_precision_maps() -> None:
    pooled = roi_align(
        torch.rand(1, 2, 8, 8).bfloat16(), torch.tensor([[0.0, 0, 0, 8, 8]]).bfloat16(), 2, 1.0, 2
    )
    assert pooled.dtype == torch.bfloat16


def test_focal_loss_equals_its_formula() -> None:
    logits, targets, weight = (
        torch.randn(6, 4),
        torch.tensor([0, 1, 2, 3, 4, 4]),
        torch.rand(4) + 0.5,
    )
    loss = sigmoid_focal_loss(logits, targets, 2.0, 0.25, weight, "none")
    for n, c in np.ndindex(6, 4):
        p = 1 / (1 + np.exp(-float(logits[n, c])))
        is_target = int(targets[n]) == c
        expected = -0.25 * (1 - p) ** 2 * np.log(p) if is_target else -0.75 * p**2 * np.log(1 - p)
        factor = float(weight[targets[n]]) if targets[n] < 4 else 1.0
        assert float(loss[n, c]) == pytest.approx(expected * factor, rel=1e-4)


def test_focal_loss_gradient_equals_finite_differences() -> None:
    torch.manual_seed(3)
    logits, targets = torch.randn(5, 3, requires_grad=True), torch.tensor([0, 1, 2, 3, 3])
    (gradient,) = torch.autograd.grad(
        sigmoid_focal_loss(logits, targets, 2.0, 0.25, None, "sum"), logits
    )
    for n, c in np.ndindex(5, 3):
        step = torch.zeros(5, 3)
        step[n, c] = 1e-2
        above = sigmoid_focal_loss(logits + step, targets, 2.0, 0.25, None, "sum")
        below = sigmoid_focal_loss(logits - step, targets, 2.0, 0.25, None, "sum")
        slope = float((above - below).detach()) / 2e-2
        assert float(gradient[n, c]) == pytest.approx(slope, rel=1e-2, abs=1e-3)


def _focal_inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Logits of all sizes, some of which saturate the sigmoid, targets with background, and a
    weight for each class."""
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(400, 6, generator=generator) * torch.tensor([1, 5, 20, 100, 1, 1])
    return (
        logits,
        torch.randint(0, 7, (400,), generator=generator),
        torch.rand(6, generator=generator) + 0.5,
    )


def test_focal_loss_and_gradient_equal_torchvision_autograd() -> None:
    logits, targets, weight = _focal_inputs()
    leaf = logits.clone().requires_grad_()
    one_hot = torch.nn.functional.one_hot(targets, 7)[:, :6].float()
    expected = torchvision.ops.sigmoid_focal_loss(leaf, one_hot, 0.3, 1.5)
    expected = expected * torch.cat([weight, torch.ones(1)])[targets, None]
    (slope,) = torch.autograd.grad(expected.sum(), leaf)
    torch.testing.assert_close(
        focal_loss(logits, targets, weight, 1.5, 0.3), expected, rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(
        focal_loss_gradient(logits, targets, weight, 1.5, 0.3), slope, rtol=1e-5, atol=1e-6
    )


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from within torch
def test_compiled_focal_loss_is_equal_and_compiled_once() -> None:
    logits, targets, weight = _focal_inputs()
    torch._dynamo.reset()
    counters.clear()
    for num in (400, 150, 7):
        leaf = logits[:num].clone().requires_grad_()
        args = (leaf, targets[:num].clone(), 2.0, 0.25, weight, "sum")
        plain = sigmoid_focal_loss(*args)
        with compiled_focal_loss():
            compiled = sigmoid_focal_loss(*args)
            (slope,) = torch.autograd.grad(compiled, leaf)
        torch.testing.assert_close(compiled, plain, rtol=1e-5, atol=0)
        torch.testing.assert_close(slope, torch.autograd.grad(plain, leaf)[0], rtol=1e-5, atol=1e-6)
    assert counters["stats"]["unique_graphs"] == 2  # a loss and a gradient


def _random_boxes(num: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(num)
    corners = torch.rand(num, 2, generator=generator) * 40
    sizes = 5 + torch.rand(num, 2, generator=generator) * 30
    return torch.cat([corners, corners + sizes], 1), torch.rand(num, generator=generator)


def _iou(one: Tensor, other: Tensor, offset: int) -> float:
    low, high = torch.maximum(one[:2], other[:2]), torch.minimum(one[2:], other[2:])
    shared = (high - low + offset).clamp(min=0).prod()
    areas = (one[2:] - one[:2] + offset).prod() + (other[2:] - other[:2] + offset).prod()
    return float(shared / (areas - shared))


def _soft_factor(iou: float, method: str) -> float:
    if method == "gaussian":
        return float(np.exp(-(iou**2) / 0.5))
    if iou < 0.3:
        return 1.0
    return 0.0 if method == "naive" else 1 - iou


def _pooled(image: Tensor, box: Tensor, bins: tuple[int, int], aligned: bool) -> Tensor:
    """Average of 2 x 2 bilinear samples in each bin."""
    x1, y1, x2, y2 = box.tolist()
    width, height = x2 - x1, y2 - y1
    if not aligned:
        width, height = max(width, 1.0), max(height, 1.0)
    pooled = torch.zeros(image.shape[0], *bins)
    for p, q in np.ndindex(*bins):
        for a, b in np.ndindex(2, 2):
            y = y1 + height / bins[0] * (p + (a + 0.5) / 2)
            x = x1 + width / bins[1] * (q + (b + 0.5) / 2)
            pooled[:, p, q] += _sample(image, y, x) / 4
    return pooled


def _sample(image: Tensor, y: float, x: float) -> Tensor:
    y, x = min(max(y, 0.0), image.shape[1] - 1), min(max(x, 0.0), image.shape[2] - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, image.shape[1] - 1), min(left + 1, image.shape[2] - 1)
    upper = image[:, top, left] * (1 - x + left) + image[:, top, right] * (x - left)
    lower = image[:, bottom, left] * (1 - x + left) + image[:, bottom, right] * (x - left)
    return upper * (1 - y + top) + lower * (y - top)
