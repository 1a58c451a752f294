"""The params of a segmentation stage. The defaults are CAT's published 80k recipe for ADE20K."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from orchestrator.contract import Check, Misfit, Role, Usual
from pipelines.details.params import DetailParams
from pipelines.openmmlab.params import FinetuneParams, Positive
from pipelines.segmentation.methods import WIDTHS, MethodName, Widths
from pipelines.training.intervals import CheckpointEverySteps

Side = Annotated[int, Field(ge=32, le=8192)]


class SegmentationParams(FinetuneParams):
    """Fine-tunes a segmenter on a data set in ADE20K's layout.

    The layout: `images/{training,validation}/`, `annotations/{training,validation}/` (PNG; 0 is
    unlabeled, class n counts from 1), and the class names in `classes.json`, `classes.txt` or
    ADE20K's own `objectInfo150.txt`.
    """

    published_lr: ClassVar[float] = 6e-5

    choices: ClassVar[frozenset[str]] = frozenset({"method"})
    fingerprinted: ClassVar[frozenset[str]] = frozenset({"data", "num_classes", "classes"})

    method: MethodName | None = None
    """The segmenter. upernet was not published with CAT; it has mmseg's settings for Swin. None:
    the segmenter of `config`."""
    max_iters: Annotated[Positive, Role.DURATION] = 80_000
    """Iterations of training; 80000 is the 80k schedule and 160000 the 160k schedule."""
    schedule: Literal["poly", "cosine"] = "poly"
    """Learning rate after the warm-up: linear (poly with power 1) or a cosine, down to min_lr."""
    warmup_iters: Annotated[int, Field(ge=0)] = 1500
    """Iterations over which lr rises linearly from a millionth."""
    img_scale: tuple[Side, Side] = (2048, 512)
    """Long side and short side in pixels. Images are resized to fit and keep their aspect ratio."""
    ratio_range: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (0.5, 2.0)
    """Training images are resized to img_scale times a random factor in this range."""
    crop_size: Side = 512
    """Side in pixels of the square crops for training."""
    photometric_distortion: bool = True
    """Whether training changes brightness, contrast, saturation and hue at random."""
    channels: Positive | None = None
    """Channels of the feature pyramid; None: 256, or 512 for upernet, whose head is the pyramid."""
    head_channels: Positive | None = None
    """Channels of the head, or of the auxiliary head for upernet; None: 128, or 256 for upernet."""
    tta: Annotated[bool, Role.ADDS] = False
    """Whether the finished model is also measured at six scales, each also mirrored:
    `miou_ms_flip`. It takes as long as about 20 validations."""
    val_every: Annotated[Positive, Role.OUTSIDE_KEY] = 8000
    """Iterations between validations. The last iteration always has one, and the metrics come from
    it."""
    checkpoint_every: Annotated[CheckpointEverySteps, Role.OUTSIDE_KEY] = CheckpointEverySteps(
        steps=8000
    )
    """How often a checkpoint is written: `{steps: N}` (iterations) or `{minutes: N}`. A plain
    number means iterations."""

    @property
    def method_name(self) -> str:
        return self.method or "config"

    @property
    def widths(self) -> Widths:
        """The method's published settings, with the values of the params in their place if
        given."""
        assert self.method is not None
        usual = WIDTHS[self.method]
        return Widths(pyramid=self.channels or usual.pyramid, head=self.head_channels or usual.head)

    def usual(self) -> Mapping[str, Usual]:
        """Adds the widths of the method."""
        if self.method is None:
            return super().usual()
        widths, method = WIDTHS[self.method], frozenset({"method"})
        return {
            **super().usual(),
            "channels": Usual(widths.pyramid, follows=method),
            "head_channels": Usual(widths.head, follows=method),
        }

    @property
    def method_or_config(self) -> tuple[str | None, str | None]:
        return self.method, self.config

    def checks(self) -> tuple[Check, ...]:
        return (
            *super().checks(),
            self._widths_are_used,
            self._warmup_ends,
            self._lr_falls,
            self._least_rates_hold,
            self._ratio_range_rises,
        )

    def _widths_are_used(self) -> Iterator[Misfit]:
        if self.has_source and self.method is None:
            for name in ("channels", "head_channels"):
                if getattr(self, name) is not None:
                    yield Misfit((name,), "the model of `config` has its own; leave it out")

    def _warmup_ends(self) -> Iterator[Misfit]:
        if self.warmup_iters >= self.max_iters:
            field = self.written("warmup_iters", "max_iters")
            yield Misfit(
                (field,),
                f"warmup_iters ({self.warmup_iters}) must be below max_iters ({self.max_iters})",
            )

    def _lr_falls(self) -> Iterator[Misfit]:
        if self.min_lr >= self.stated_lr:
            yield Misfit(("min_lr",), f"must be below lr ({self.stated_lr:g}), not {self.min_lr:g}")

    def _least_rates_hold(self) -> Iterator[Misfit]:
        if self.layer_decay < 1 and self.min_lr and self.schedule == "poly":
            message = (
                "must be 0 with layer_decay and schedule: poly, which would raise smaller rates "
                "to min_lr; set it to 0, or choose schedule: cosine"
            )
            yield Misfit(("min_lr",), message)

    def _ratio_range_rises(self) -> Iterator[Misfit]:
        if self.ratio_range[0] > self.ratio_range[1]:
            yield Misfit(("ratio_range",), f"must be [low, high], not {list(self.ratio_range)}")


class SegmentationEvaluationParams(DetailParams, SegmentationParams):
    """Measures a segmenter on the validation images of a data set in ADE20K's layout."""
