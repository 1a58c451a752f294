"""The compiled ops of mmcv that our methods call, implemented with torchvision's kernels behind
mmcv's calling conventions.

Shapes: N boxes as (x1, y1, x2, y2); K RoIs as (image index, x1, y1, x2, y2); C channels or classes.
"""

# ruff: noqa: N803, N806  tensor names end in their shape
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torchvision
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from cat_model.tracing import COMPILER_OPTIONS
from orchestrator.errors import StageError

NAIVE, LINEAR = 0, 1
"""Methods of `softnms`; the third is gaussian."""


class MissingOpError(StageError):
    """A call of an mmcv op that has no implementation on torchvision."""

    def __init__(self, op: str) -> None:
        self.op = op
        super().__init__(op)

    def __str__(self) -> str:
        return (
            f"mmcv's {self.op} has no kernel here: mmcv was installed without its compiled ops; "
            "install them with `MAX_JOBS=4 pip install --no-build-isolation --force-reinstall "
            "--no-deps onedl-mmcv` (needs a C++ compiler, and nvcc for GPUs) or use a method that "
            "does not need this op"
        )


def nms(boxes_N4: Tensor, scores_N: Tensor, *, iou_threshold: float, offset: int) -> Tensor:
    """Indices of the boxes to keep, best score first. With offset 1 a box is one pixel larger to
    the right and below."""
    grown_N4 = boxes_N4 + boxes_N4.new_tensor([0, 0, offset, offset])
    kept: Tensor = torchvision.ops.nms(grown_N4.float(), scores_N.float(), iou_threshold)
    return kept


def softnms(
    boxes_N4: Tensor,
    scores_N: Tensor,
    dets_N5: Tensor,
    *,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Indices of the boxes to keep, in order. Writes their boxes and decayed scores to the first
    rows of `dets_N5`.

    Bodla et al., "Soft-NMS", arXiv 1704.04503.
    """
    grown_N4 = boxes_N4 + boxes_N4.new_tensor([0, 0, offset, offset])
    scores_N = scores_N.clone()
    left_M = torch.arange(len(boxes_N4))
    kept: list[int] = []
    while len(left_M):
        index = int(scores_N[left_M].argmax())
        best = int(left_M[index])
        dets_N5[len(kept)] = torch.cat([boxes_N4[best], scores_N[best].view(1)])
        kept.append(best)
        left_M = torch.cat([left_M[:index], left_M[index + 1 :]])
        iou_M = torchvision.ops.box_iou(grown_N4[best : best + 1], grown_N4[left_M])[0]
        scores_N[left_M] *= _decay(iou_M, iou_threshold=iou_threshold, sigma=sigma, method=method)
        left_M = left_M[scores_N[left_M] >= min_score]
    return torch.tensor(kept, dtype=torch.long)


def roi_align_forward(
    input_BCHW: Tensor,
    rois_K5: Tensor,
    output_KCPQ: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    *,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Average-pooled RoIAlign, written into `output_KCPQ`; `argmax_*` belong to max pooling."""
    _only_average(pool_mode)
    # In float32: torchvision has no bfloat16 kernel, and float16 coordinates beyond 2048 are wrong
    # by a pixel.
    output_KCPQ.copy_(
        torchvision.ops.roi_align(
            input_BCHW.float(),
            rois_K5.float(),
            (aligned_height, aligned_width),
            spatial_scale,
            sampling_ratio,
            aligned,
        )
    )


def roi_align_backward(
    grad_output_KCPQ: Tensor,
    rois_K5: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input_BCHW: Tensor,
    *,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """The gradient of `roi_align_forward` with respect to its input, written into
    `grad_input_BCHW`."""
    _only_average(pool_mode)
    backward: Any = torch.ops.torchvision._roi_align_backward
    grad_input_BCHW.copy_(
        backward(
            grad_output_KCPQ.float(),
            rois_K5.float(),
            spatial_scale,
            aligned_height,
            aligned_width,
            *grad_input_BCHW.shape,
            sampling_ratio,
            aligned,
        )
    )


def sigmoid_focal_loss_forward(
    input_NC: Tensor,
    target_N: Tensor,
    weight_C: Tensor,
    output_NC: Tensor,
    *,
    gamma: float,
    alpha: float,
) -> None:
    """`focal_loss`, written into `output_NC`."""
    output_NC.copy_(_focal_passes[0](input_NC, target_N, weight_C, gamma, alpha))


def sigmoid_focal_loss_backward(
    input_NC: Tensor,
    target_N: Tensor,
    weight_C: Tensor,
    grad_input_NC: Tensor,
    *,
    gamma: float,
    alpha: float,
) -> None:
    """`focal_loss_gradient`, written into `grad_input_NC`."""
    grad_input_NC.copy_(_focal_passes[1](input_NC, target_N, weight_C, gamma, alpha))


def focal_loss(
    logits_NC: Tensor, target_N: Tensor, weight_C: Tensor, gamma: float, alpha: float
) -> Tensor:
    """The focal loss (Lin et al., arXiv 1708.02002), unreduced, in float32. A target of C means
    background.

    In the paper's terms: -alpha_t (1 - p_t)^gamma log p_t, where p_t is the sigmoid of the logit
    towards the target. `weight_C` is a factor per target class; an empty tensor means no factor.
    """
    _, towards_NC, scale_NC = _focal_parts(logits_NC, target_N, weight_C, alpha)
    return (
        torch.sigmoid(-towards_NC).pow_(gamma).mul_(F.logsigmoid(towards_NC)).mul_(scale_NC).neg_()
    )


def focal_loss_gradient(
    logits_NC: Tensor, target_N: Tensor, weight_C: Tensor, gamma: float, alpha: float
) -> Tensor:
    """Gradient of the summed `focal_loss` with respect to the logits. The closed form needs half as
    many passes as autograd."""
    is_target_NC, towards_NC, scale_NC = _focal_parts(logits_NC, target_N, weight_C, alpha)
    miss_NC = torch.sigmoid(-towards_NC)
    slope_NC = F.logsigmoid(towards_NC).mul_(1 - miss_NC).mul_(gamma).sub_(miss_NC)
    slope_NC.mul_(miss_NC.pow_(gamma)).mul_(scale_NC)
    return torch.where(is_target_NC, slope_NC, -slope_NC)


def _focal_parts(
    logits_NC: Tensor, target_N: Tensor, weight_C: Tensor, alpha: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Three parts: a mask of the targets, the logits towards the target (p_t before the sigmoid),
    and the product of alpha_t and weight."""
    logits_NC = logits_NC.float()
    is_target_NC = target_N[:, None] == torch.arange(logits_NC.shape[1], device=target_N.device)
    scale_NC = torch.where(is_target_NC, alpha, 1 - alpha)
    if weight_C.numel():
        scale_NC = scale_NC * F.pad(weight_C.float(), (0, 1), value=1.0)[target_N, None]
    return is_target_NC, torch.where(is_target_NC, logits_NC, -logits_NC), scale_NC


_focal_passes = (focal_loss, focal_loss_gradient)
"""The loss and its gradient in use. The setting is per process, not per thread, because autograd
calls the gradient from its own thread."""


@contextmanager
def compiled_focal_loss() -> Iterator[None]:
    """Within the block, both passes are compiled at their first call: one kernel each instead of a
    dozen."""
    global _focal_passes  # noqa: PLW0603  see there
    plain = _focal_passes
    # Each level of a pyramid has a different number of logits.
    how: dict[str, Any] = {"dynamic": True, "options": COMPILER_OPTIONS}
    _focal_passes = (torch.compile(focal_loss, **how), torch.compile(focal_loss_gradient, **how))
    try:
        yield
    finally:
        _focal_passes = plain


def _decay(iou_M: Tensor, *, iou_threshold: float, sigma: float, method: int) -> Tensor:
    if method == NAIVE:
        return (iou_M < iou_threshold).to(iou_M)
    if method == LINEAR:
        return torch.where(iou_M >= iou_threshold, 1 - iou_M, torch.ones_like(iou_M))
    return torch.exp(-(iou_M**2) / sigma)


def _only_average(pool_mode: int) -> None:
    if pool_mode != 1:
        raise MissingOpError("roi_align with pool_mode='max'")


BACKED = {
    op.__name__: op
    for op in (
        nms,
        softnms,
        roi_align_forward,
        roi_align_backward,
        sigmoid_focal_loss_forward,
        sigmoid_focal_loss_backward,
    )
}
"""The implemented ops, by their names in `mmcv._ext`."""

SOURCES = {
    name: "python" if name.startswith(("softnms", "sigmoid")) else "torchvision" for name in BACKED
}
"""The kernels behind each op: one compiled kernel of torchvision, or several of torch from
Python."""
