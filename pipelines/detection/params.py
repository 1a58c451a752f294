"""The params of a detection stage; its defaults are CAT's published 1x recipe for COCO."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from orchestrator.contract import Role
from pipelines.openmmlab.params import FinetuneParams, Positive

Side = Annotated[int, Field(ge=32, le=8192)]


class DetectionParams(FinetuneParams):
    """Fine-tunes a detector on a data set in COCO's layout.

    The layout: `annotations/instances_{train,val}2017.json`, `train2017/` and `val2017/`.
    """

    method: Literal["mask_rcnn"]
    """The detector; Mask R-CNN gives boxes and masks."""
    epochs: Positive = 12
    """Passes over the training images; 12 is the 1x schedule."""
    lr: Annotated[float, Field(gt=0)] = 1e-4
    """Highest learning rate, for the batch as a whole; it is not scaled with the number of workers."""
    schedule: Literal["step", "cosine"] = "step"
    """After the warm-up: a tenth at each milestone, or a cosine down to min_lr."""
    milestones: tuple[Positive, ...] = (8, 11)
    """Epochs after which a step schedule divides lr by ten; those beyond `epochs` do nothing."""
    warmup_iters: Annotated[int, Field(ge=0)] = 500
    """Iterations over which lr rises linearly from a thousandth."""
    img_scale: tuple[Side, Side] = (1333, 800)
    """Pixels: images are resized to fit, long side and short side, keeping their ratio."""
    channels: Positive = 256
    """Width of the feature pyramid, of the proposal head and of the mask head."""
    fc_channels: Positive = 1024
    """Width of the box head's two layers."""
    num_rois: Positive = 512
    """Regions an image on which box and mask head learn."""
    anchor_scale: Annotated[float, Field(gt=0)] = 8.0
    """Side of an anchor in strides of its level, 4 to 64 pixels."""
    val_every: Annotated[Positive, Role.OUTSIDE_KEY] = 1
    """Epochs between validations; the last epoch always has one, and only that one counts."""
    checkpoint_every: Annotated[Positive, Role.OUTSIDE_KEY] = 1
    """Epochs between the checkpoints from which an interrupted stage goes on."""

    @model_validator(mode="after")
    def _lr_falls(self) -> Self:
        if self.schedule == "cosine" and self.min_lr >= self.lr:
            raise ValueError(f"min_lr: must be below lr ({self.lr:g}), not {self.min_lr:g}")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones: must rise, not {list(self.milestones)}")
        return self
