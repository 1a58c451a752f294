"""A training step of a detector or segmenter as in its stage, on images already on the device.

Letters: B images, H and W pixels, N objects of an image, K classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from cat_model import CONFIGS
from cat_model.tracing import COMPILER_OPTIONS
from pipelines.detection.model import make_model
from pipelines.detection.params import DetectionParams
from pipelines.openmmlab.library import (
    MODELS,
    Config,
    DefaultScope,
    MMDistributedDataParallel,
    MMLogger,
    Scope,
    load_library,
    quiet_import,
    revert_sync_batchnorm,
)
from pipelines.openmmlab.optimizer import FewGroups
from pipelines.openmmlab.recipe import backbone, optim_wrapper
from pipelines.openmmlab.runner import parts_of_tensors
from pipelines.segmentation.params import SegmentationParams
from pipelines.segmentation.semantic_fpn import model as semantic_fpn

with quiet_import():
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData, PixelData
    from mmseg.structures import SegDataSample

METHODS = ("retinanet", "mask_rcnn", "fcos", "atss", "cascade_rcnn", "semantic_fpn")
NUM_CLASSES = {"mmdet": 80, "mmseg": 150}
NUM_OBJECTS = 7
"""Objects in an image; COCO has 7.3 on average."""
Ddp = Literal["none", "all", "search"]
"""How gradients are handled.

`none`: without DistributedDataParallel (DDP). `all`: DDP. `search`: DDP that looks for unused
parameters.
"""


@dataclass(frozen=True)
class Case:
    """What is trained: a published size, whose image sides are multiples of 32."""

    method: str
    backbone: str
    batch_size: int
    image_hw: tuple[int, int]
    precision: Literal["fp32", "bf16", "fp16"]
    is_compiled: bool = False
    ddp: Ddp = "none"

    @property
    def scope(self) -> Scope:
        return "mmseg" if self.method == "semantic_fpn" else "mmdet"

    def params(self) -> Any:
        """The params of its stage: as published, except for the batch size."""
        common: dict[str, Any] = {
            "data": "nowhere",
            "backbone": "no.checkpoint",
            "batch_size": self.batch_size,
        }
        fields = {**common, "method": self.method, "precision": self.precision}
        if self.scope == "mmseg":
            return SegmentationParams(**fields, crop_size=self.image_hw[0])
        return DetectionParams(**fields)


class Step:
    """One step: forward, losses, backward and AdamW, by mmengine's `train_step`."""

    def __init__(self, case: Case, device: torch.device) -> None:
        torch.manual_seed(0)
        params = case.params()
        load_library(case.scope)
        self._scope = case.scope
        # At its default level it logs how it initialised each tensor.
        MMLogger.get_current_instance().setLevel("ERROR")
        with DefaultScope.overwrite_default_scope(case.scope):
            model: Any = MODELS.build(Config(_model_config(case, device)))
            model.init_weights()
            wrapper = optim_wrapper(params, device=device.type)
            model = model.to(device).train()
            self.model: Any = _wrapped(model, case.ddp, device)
            del wrapper["constructor"]
            self.wrapper = FewGroups(wrapper, wrapper.pop("paramwise_cfg"))(self.model)
        if case.is_compiled:
            torch.compiler.reset()  # earlier cases count towards its limit of recompilations
            for part in parts_of_tensors(model):
                part.compile(options=COMPILER_OPTIONS)
        self._batch = make_batch(case, device)

    def __call__(self) -> None:
        with DefaultScope.overwrite_default_scope(self._scope):
            self.model.train_step(self._batch, self.wrapper)

    def held_bytes(self) -> int:
        states = self.wrapper.optimizer.state.values()
        of_optimizer = (x for state in states for x in state.values() if isinstance(x, Tensor))
        tensors = [*self.model.parameters(), *self.model.buffers(), *of_optimizer]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def make_batch(case: Case, device: torch.device) -> dict[str, Any]:
    """A loader's batch for `train_step`: random pixels, with random objects or labels."""
    rng = np.random.default_rng(0)
    height, width = case.image_hw
    images = rng.integers(0, 256, (case.batch_size, 3, height, width), np.uint8)
    make = _labels if case.scope == "mmseg" else _objects
    samples = [make(case, rng).to(device) for _ in images]
    return {
        "inputs": [torch.from_numpy(image).to(device) for image in images],
        "data_samples": samples,
    }


def _objects(case: Case, rng: np.random.Generator) -> Any:
    height, width = case.image_hw
    sides = np.minimum(
        np.exp(rng.uniform(math.log(16), math.log(400), (NUM_OBJECTS, 2))), [width / 2, height / 2]
    )
    corners = rng.uniform(0, 1, (NUM_OBJECTS, 2)) * ([width, height] - sides)
    boxes = np.concatenate([corners, corners + sides], 1)
    masks = np.zeros((NUM_OBJECTS, height, width), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int), strict=True):
        mask[y1:y2, x1:x2] = 1
    labels = torch.from_numpy(rng.integers(0, NUM_CLASSES["mmdet"], NUM_OBJECTS))
    objects = InstanceData(bboxes=torch.from_numpy(boxes).float(), labels=labels)
    if case.method == "mask_rcnn":
        objects.masks = BitmapMasks(masks, height, width)
    return DetDataSample(metainfo=_metainfo(case), gt_instances=objects)


def _labels(case: Case, rng: np.random.Generator) -> Any:
    labels = torch.from_numpy(rng.integers(0, NUM_CLASSES["mmseg"], (1, *case.image_hw)))
    return SegDataSample(metainfo=_metainfo(case), gt_sem_seg=PixelData(data=labels))


def _metainfo(case: Case) -> dict[str, Any]:
    shape = case.image_hw
    return {"img_shape": shape, "ori_shape": shape, "pad_shape": shape, "scale_factor": (1.0, 1.0)}


def _model_config(case: Case, device: torch.device) -> dict[str, Any]:
    params, cat = case.params(), CONFIGS[case.backbone]
    parts: dict[str, Any] = {"backbone": backbone(cat.to_dict(), None), "widths": cat.dims}
    if case.scope == "mmseg":
        return semantic_fpn(params, **parts, num_classes=NUM_CLASSES["mmseg"], device=device.type)
    return make_model(params, **parts, num_classes=NUM_CLASSES["mmdet"])


def _wrapped(model: nn.Module, ddp: Ddp, device: torch.device) -> nn.Module:
    if ddp == "none":
        return revert_sync_batchnorm(model)  # type: ignore[no-any-return]
    devices = None if device.type == "cpu" else [device]
    wrapped: nn.Module = MMDistributedDataParallel(
        module=model,
        device_ids=devices,
        broadcast_buffers=False,
        find_unused_parameters=ddp == "search",
    )
    return wrapped
