"""The params of a detection stage. The defaults are CAT's published 1x recipe for COCO."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from orchestrator.contract import Check, Misfit, Role, Usual
from pipelines.details.params import DetailParams
from pipelines.detection.traits import METHODS, Method, MethodName, MethodSettings
from pipelines.openmmlab.params import FinetuneParams, Positive
from pipelines.training.intervals import CheckpointEvery

Side = Annotated[int, Field(ge=32, le=8192)]


class DetectionParams(FinetuneParams):
    """Fine-tunes a detector on a data set in COCO's layout.

    The layout: `annotations/instances_{train,val}2017.json`, `train2017/` and `val2017/`.
    """

    published_lr: ClassVar[float] = 1e-4

    choices: ClassVar[frozenset[str]] = frozenset({"method", "masks"})
    fingerprinted: ClassVar[frozenset[str]] = frozenset(
        {"data", "num_classes", "classes", "method", "masks"}
    )

    method: MethodName | None = None
    """The detector. mask_rcnn predicts boxes and masks, the others only boxes. None: the detector
    of `config`."""
    masks: bool = False
    """Whether the model of `config` also learns masks and is measured by them. Only for `config`:
    each method defines this itself."""
    epochs: Annotated[Positive, Role.DURATION] = 12
    """Passes over the training images; 12 is the 1x schedule, 24 is 2x and 36 is 3x."""
    schedule: Literal["step", "cosine"] = "step"
    """Learning rate after the warm-up: divided by ten at each milestone (step), or a cosine down to
    min_lr."""
    milestones: tuple[Positive, ...] | None = None
    """Epochs after which a step schedule divides lr by ten. Milestones beyond `epochs` have no
    effect. None: [8, 11], [16, 22] and [27, 33] for 1x, 2x and 3x, and two thirds and eleven
    twelfths of `epochs` for other lengths."""
    warmup_iters: Annotated[int, Field(ge=0)] = 500
    """Iterations over which lr rises linearly from a thousandth."""
    img_scale: tuple[Side, Side] = (1333, 800)
    """Long side and short side in pixels. Images are resized to fit and keep their aspect ratio."""
    multi_scale: bool = False
    """Whether training images get random short sides of 0.6 to 1 times the short side of
    `img_scale`, half of them after a random crop.

    The rows published with a plus, such as Cascade R-CNN+, use this. Validation is always at
    `img_scale`.
    """
    channels: Positive = 256
    """Channels of the feature pyramid and of the heads; fcos and atss need a multiple of 8."""
    fc_channels: Positive | None = None
    """Channels of the two layers of a box head; None: 1024. Only for mask_rcnn and cascade_rcnn."""
    num_rois: Positive | None = None
    """Regions per image on which box and mask heads learn; None: 512. Only for mask_rcnn and
    cascade_rcnn."""
    anchor_scale: Annotated[float, Field(gt=0)] | None = None
    """Side of a level's smallest anchor, in strides of that level. None: 4 for retinanet, else 8.
    Not for fcos."""
    val_every: Annotated[Positive, Role.OUTSIDE_KEY] = 1
    """Epochs between validations. The last epoch always has one, and the metrics come from it."""
    checkpoint_every: Annotated[CheckpointEvery, Role.OUTSIDE_KEY] = CheckpointEvery(epochs=1)
    """How often a checkpoint is written: `{epochs: N}`, `{steps: N}` (iterations) or `{minutes:
    N}`. A plain number means epochs."""

    @property
    def traits(self) -> Method:
        """The properties of the detector."""
        return (
            METHODS[self.method] if self.method else Method(MethodSettings(), has_masks=self.masks)
        )

    @property
    def method_name(self) -> str:
        return self.method or "config"

    @property
    def settings(self) -> MethodSettings:
        """The method's published settings, with the values of the params in their place if
        given."""
        own = {field.name: getattr(self, field.name) for field in fields(MethodSettings)}
        return replace(
            self.traits.settings,
            **{name: value for name, value in own.items() if value is not None},
        )

    @property
    def method_or_config(self) -> tuple[str | None, str | None]:
        return self.method, self.config

    def checks(self) -> tuple[Check, ...]:
        return (
            *super().checks(),
            self._settings_are_used,
            self._masks_go_with_config,
            self._channels_divide,
            self._lr_falls,
            self._milestones_rise,
        )

    def _settings_are_used(self) -> Iterator[Misfit]:
        if not self.has_source:
            return
        unused = sorted(self.settings.names - self.traits.settings.names)
        if self.method is None and self.channels != type(self).model_fields["channels"].default:
            unused = ["channels", *unused]
        for name in unused:
            yield Misfit((name,), f"{self.method_name} has no such setting; leave it out")

    def _masks_go_with_config(self) -> Iterator[Misfit]:
        if self.masks and self.method is not None:
            yield Misfit(
                ("masks",), f"needs `config`; {self.method} defines whether it learns masks"
            )

    def _channels_divide(self) -> Iterator[Misfit]:
        divisor = self.traits.channels_divisor
        if self.channels % divisor:
            message = (
                f"must be a multiple of {divisor} with {self.method}, whose head normalises "
                f"groups of {divisor} channels, not {self.channels}"
            )
            yield Misfit(("channels",), message)

    def _lr_falls(self) -> Iterator[Misfit]:
        if self.schedule == "cosine" and self.min_lr >= self.stated_lr:
            yield Misfit(("min_lr",), f"must be below lr ({self.stated_lr:g}), not {self.min_lr:g}")

    def _milestones_rise(self) -> Iterator[Misfit]:
        if self.milestones is not None and list(self.milestones) != sorted(set(self.milestones)):
            yield Misfit(("milestones",), f"must increase, not {list(self.milestones)}")

    @property
    def steps(self) -> tuple[int, ...]:
        """Epochs after which a step schedule divides lr by ten."""
        return schedule_steps(self.epochs) if self.milestones is None else self.milestones

    def usual(self) -> Mapping[str, Usual]:
        """Adds the milestones of the schedule and the settings of the method."""
        published, method = self.traits.settings, frozenset({"method"})
        return {
            **super().usual(),
            "milestones": Usual(list(schedule_steps(self.epochs)), follows=frozenset({"epochs"})),
            **{
                field.name: Usual(getattr(published, field.name), follows=method)
                for field in fields(MethodSettings)
            },
        }


def schedule_steps(epochs: int) -> tuple[int, ...]:
    """The default milestones for a number of epochs: mmdet's for 12, 24 and 36."""
    usual = {12: (8, 11), 24: (16, 22), 36: (27, 33)}
    steps = usual.get(epochs, (epochs * 2 // 3, epochs * 11 // 12))
    return tuple(sorted({step for step in steps if step > 0}))


class DetectionEvaluationParams(DetailParams, DetectionParams):
    """Measures a detector on the val images of a data set in COCO's layout."""
