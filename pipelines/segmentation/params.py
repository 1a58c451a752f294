"""The params of a segmentation stage; its defaults are CAT's published 80k recipe for ADE20K."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from orchestrator.contract import Role
from pipelines.details.params import DetailParams
from pipelines.openmmlab.params import FinetuneParams, Positive

Side = Annotated[int, Field(ge=32, le=8192)]


class SegmentationParams(FinetuneParams):
    """Fine-tunes a segmenter on a data set in ADE20K's layout.

    The layout: `images/{training,validation}/`, `annotations/{training,validation}/` (PNG; 0 is unlabeled, class n
    counts from 1), and the class names in `classes.json`, `classes.txt` or ADE20K's own `objectInfo150.txt`.
    """

    method: Literal["semantic_fpn"]
    """The segmenter."""
    max_iters: Positive = 80_000
    """Iterations of training."""
    lr: Annotated[float, Field(gt=0)] = 6e-5
    """Highest learning rate, for the batch as a whole; it is not scaled with the number of workers."""
    schedule: Literal["poly", "cosine"] = "poly"
    """After the warm-up: linearly (poly with power 1) or along a cosine down to min_lr."""
    warmup_iters: Annotated[int, Field(ge=0)] = 1500
    """Iterations over which lr rises linearly from a millionth."""
    img_scale: tuple[Side, Side] = (2048, 512)
    """Pixels: images are resized to fit, long side and short side, keeping their ratio."""
    ratio_range: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (0.5, 2.0)
    """Training images are resized to img_scale times a random factor of this range."""
    crop_size: Side = 512
    """Side of the square that training sees."""
    photometric_distortion: bool = True
    """Whether brightness, contrast, saturation and hue change at random in training."""
    channels: Positive = 256
    """Width of the feature pyramid."""
    head_channels: Positive = 128
    """Width of the head."""
    tta: Annotated[bool, Role.ADDS] = False
    """Whether the finished model is also measured at six scales, each mirrored too: `miou_ms_flip`. In time some 20
    validations."""
    val_every: Annotated[Positive, Role.OUTSIDE_KEY] = 8000
    """Iterations between validations; the last iteration always has one, and only that one counts."""
    checkpoint_every: Annotated[Positive, Role.OUTSIDE_KEY] = 8000
    """Iterations between the checkpoints from which an interrupted stage goes on."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.warmup_iters >= self.max_iters:
            raise ValueError(f"warmup_iters: must be below max_iters ({self.max_iters}), not {self.warmup_iters}")
        if self.min_lr >= self.lr:
            raise ValueError(f"min_lr: must be below lr ({self.lr:g}), not {self.min_lr:g}")
        if self.ratio_range[0] > self.ratio_range[1]:
            raise ValueError(f"ratio_range: must be [low, high], not {list(self.ratio_range)}")
        return self


class SegmentationEvaluationParams(DetailParams, SegmentationParams):
    """Measures a segmenter on the validation images of a data set in ADE20K's layout."""
