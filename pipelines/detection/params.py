"""The params of a detection stage; its defaults are CAT's published 1x recipe for COCO."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from orchestrator.contract import Role
from pipelines.details.params import DetailParams
from pipelines.detection.methods import METHODS, MethodName, Settings
from pipelines.openmmlab.params import FinetuneParams, Positive

Side = Annotated[int, Field(ge=32, le=8192)]


class DetectionParams(FinetuneParams):
    """Fine-tunes a detector on a data set in COCO's layout.

    The layout: `annotations/instances_{train,val}2017.json`, `train2017/` and `val2017/`.
    """

    method: MethodName
    """The detector; mask_rcnn gives boxes and masks, the others boxes."""
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
    multi_scale: bool = False
    """Training images get random short sides of 0.6 to 1 times that of `img_scale`, half of them after a random crop.

    The rows published with a plus, such as Cascade R-CNN+, are trained so; validation is always at `img_scale`.
    """
    channels: Positive = 256
    """Width of the feature pyramid and of the heads; fcos and atss need a multiple of 8."""
    fc_channels: Positive | None = None
    """Width of the two layers of a box head; None: 1024. For mask_rcnn and cascade_rcnn."""
    num_rois: Positive | None = None
    """Regions an image on which box and mask heads learn; None: 512. For mask_rcnn and cascade_rcnn."""
    anchor_scale: Annotated[float, Field(gt=0)] | None = None
    """Side of a level's smallest anchor in strides of that level; None: 4 for retinanet, else 8. Not for fcos."""
    val_every: Annotated[Positive, Role.OUTSIDE_KEY] = 1
    """Epochs between validations; the last epoch always has one, and only that one counts."""
    checkpoint_every: Annotated[Positive, Role.OUTSIDE_KEY] = 1
    """Epochs between the checkpoints from which an interrupted stage goes on."""

    @property
    def settings(self) -> Settings:
        """Those of the method, as published but for what the params say."""
        own = {field.name: getattr(self, field.name) for field in fields(Settings)}
        return replace(
            METHODS[self.method].settings, **{name: value for name, value in own.items() if value is not None}
        )

    @model_validator(mode="after")
    def _fits_the_method(self) -> Self:
        method = METHODS[self.method]
        unused = sorted(self.settings.names - method.settings.names)
        if unused:
            raise ValueError(f"{', '.join(unused)}: {self.method} has no such setting; leave it out")
        if self.channels % method.channels_divisor:
            raise ValueError(
                f"channels: must be a multiple of {method.channels_divisor} with {self.method}, whose head normalises "
                f"groups of {method.channels_divisor}, not {self.channels}"
            )
        return self

    @model_validator(mode="after")
    def _lr_falls(self) -> Self:
        if self.schedule == "cosine" and self.min_lr >= self.lr:
            raise ValueError(f"min_lr: must be below lr ({self.lr:g}), not {self.min_lr:g}")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones: must rise, not {list(self.milestones)}")
        return self


class DetectionEvaluationParams(DetailParams, DetectionParams):
    """Measures a detector on the val images of a data set in COCO's layout."""
