"""The params of a pretraining stage; the defaults are the reference recipe on ImageNet-1K. Imports
no torch.

The exception is `precision`: the reference's fp16 needs a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, JsonValue

from orchestrator.contract import Check, Misfit, Params, Role, Usual, settled
from pipelines.cat.params import Model, ModelParams, img_size_of, settings_of, usual_name
from pipelines.data.folder import ImageData
from pipelines.details.params import DetailParams
from pipelines.training.intervals import CheckpointEvery

REFERENCE_LR = 5e-4
"""Peak learning rate of the reference for a global batch of REFERENCE_BATCH; it scales linearly
with the batch."""
REFERENCE_BATCH = 512

Probability = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0, le=10)]
Beta = Annotated[float, Field(ge=0, lt=1)]
RandAugment = Annotated[
    str,
    Field(
        pattern=r"^(rand(-(mstd\d+(\.\d+)?|mmax\d+|inc[01]|m\d+|n\d+|p\d+(\.\d+)?))*|(original|v0)r?|3a)$"
    ),
]


class PretrainParams(Params):
    """CAT as a classifier: AdamW, warm-up and cosine per update, mixup and cutmix, timm's
    augmentation."""

    reference: ClassVar[Mapping[str, JsonValue]] = {"precision": "fp16"}
    fingerprinted: ClassVar[frozenset[str]] = frozenset({"data", "num_classes"})

    data: ImageData
    """Folder with train/<class>/* and val/<class>/*, with train_map.txt and val_map.txt, or with
    tar shards; or `s3://BUCKET/PREFIX` with shards; or `sample:digits`."""
    model: Annotated[Model, Role.MODEL] = "cat_tiny"
    """`cat_tiny`, `cat_small`, `cat_base`, or a mapping of settings."""
    num_classes: Annotated[int, Field(ge=2)] | None = None
    """Number of classes that the data must hold; None: any number."""
    img_size: Annotated[int, Field(ge=8, le=2048)] | None = None
    """Side of the square input in pixels, for training and evaluation; None: the model's own."""
    weights: Annotated[str | None, Role.INPUT] = None
    """Classifier that fine-tuning starts from, a stage's checkpoint or a file; None: random
    weights."""
    reset_head: bool = False
    """Whether a new head replaces the head of `weights`, as other classes need."""

    data_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Part of each class's training images that is used, the same for every seed; val is never
    reduced."""
    epochs: Annotated[int, Field(ge=1), Role.DURATION] = 300
    """Passes over the training images."""
    batch_size: Annotated[int, Field(ge=1)] = 1024
    """Images per update, over all workers and accumulated parts; a multiple of workers times
    `accumulate`, and of twice that with mixup or cutmix."""
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Parts in which each worker computes its share of an update, for batches that do not fit its
    memory."""
    lr: Rate | None = None
    """Peak learning rate for `batch_size`, used without scaling; None: 5e-4 * batch_size / 512."""
    min_lr: Rate | None = None
    """Learning rate at the end; None: a hundredth of the peak, as in the reference."""
    warmup_lr: Rate | None = None
    """Learning rate of the first update; None: a thousandth of the peak, as in the reference."""
    warmup_epochs: Annotated[int, Field(ge=0)] = 20
    """Epochs of linear warm-up; a shorter run warms up throughout, so short trials need no other
    value."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Decoupled decay of matrices; biases, norms, position embeddings and bias tables do not
    decay."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """AdamW's decay of the averages of gradients and of their squares."""
    eps: Annotated[float, Field(gt=0, le=1)] = 1e-8
    """AdamW's term added to the root of the averaged squares."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor on the learning rate from each depth of the network to the previous one; 1: the same
    for all."""
    clip_grad: Annotated[float, Field(gt=0)] | None = 5.0
    """Largest norm of the gradient; None: unlimited."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the forward pass under autocast; fp16 scales the loss and needs a GPU."""
    drop_path_rate: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Drop path rate of the last group; None: the model's own."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay per update of an average of the weights, which is then evaluated and published instead
    of the weights; None: no average."""
    non_finite: Literal["stop", "skip"] = "stop"
    """What to do about a NaN or infinite gradient: stop the stage, or skip the update, up to
    `max_skipped_updates`."""
    max_skipped_updates: Annotated[int, Field(ge=0)] = 10
    """Updates that may be skipped in the whole training before the stage stops."""

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the target spread over all classes."""
    mixup: Annotated[float, Field(ge=0)] = 0.8
    """Alpha of mixup's beta distribution; 0: off."""
    cutmix: Annotated[float, Field(ge=0)] = 1.0
    """Alpha of cutmix's beta distribution; 0: off."""
    mixup_prob: Probability = 1.0
    """Probability that a batch is mixed at all."""
    mixup_switch_prob: Probability = 0.5
    """Probability of cutmix if both are on."""
    mixup_mode: Literal["batch", "pair", "elem"] = "batch"
    """Whether a batch, each pair of images or each image has its own mixing ratio."""
    augmentation: Literal["reference", "fast", "device"] = "reference"
    """`reference`: timm on PIL images, bit for bit. `fast`: the same distributions, computed faster
    on the CPU. `device`: the same, computed in part on the device."""
    auto_augment: RandAugment | None = "rand-m9-mstd0.5-inc1"
    """timm's policy: RandAugment, or AutoAugment `original`, `originalr`, `v0`, `v0r`, `3a`; None:
    off."""
    color_jitter: Probability = 0.4
    """Strength of jitter in brightness, contrast and saturation; ignored if `auto_augment` is
    on."""
    hflip: Probability = 0.5
    """Probability of a horizontal flip."""
    random_erasing: Probability = 0.25
    """Probability that a rectangle is erased."""
    erasing_mode: Literal["const", "rand", "pixel"] = "pixel"
    """What an erased rectangle holds: the mean colour, one random colour, or noise."""
    erasing_count: Annotated[int, Field(ge=1, le=16)] = 1
    """Maximum number of rectangles in an image."""
    scale: tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]] = (
        0.08,
        1.0,
    )
    """Minimum and maximum share of the image's area that a training crop shows."""
    ratio: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (3 / 4, 4 / 3)
    """Minimum and maximum ratio of a training crop's width to its height."""
    interpolation: Literal["bicubic", "bilinear", "nearest"] = "bicubic"
    """How images are resized."""
    crop_pct: Annotated[float, Field(gt=0, le=1)] = 0.875
    """Ratio of the side of the evaluation's centre crop to the side of the resized image."""
    max_broken_images: Annotated[int, Field(ge=0)] = 10
    """Images that may fail to decode before the stage stops; in train others replace them, in val
    they are left out."""

    loader_workers: Annotated[int, Field(ge=0, le=256), Role.OUTSIDE_KEY] = 4
    """Processes per worker that decode and augment; 0: the worker does it itself."""
    cache_gib: Annotated[float, Field(gt=0), Role.OUTSIDE_KEY] = 200
    """Disk space in GiB that each machine may use for shards read from S3; ImageNet-1K's take
    140."""
    checkpoint_every: Annotated[CheckpointEvery, Role.OUTSIDE_KEY] = CheckpointEvery(epochs=1)
    """Interval between checkpoints: `{epochs: N}`, `{steps: N}` (updates) or `{minutes: N}`; a
    number: epochs."""
    keep_best: Annotated[int, Field(ge=0, le=100), Role.OUTSIDE_KEY] = 0
    """Number of checkpoints with the best top-1 that are kept in addition to the latest until the
    stage is done. Only checkpoints at the end of an epoch have a top-1, so with `steps` or
    `minutes` each epoch also ends with a checkpoint."""
    activation_checkpointing: Annotated[bool, Role.OUTSIDE_KEY] = False
    """Recompute activations in the backward pass instead of keeping them: less memory, a third more
    time."""
    compile: Annotated[bool, Role.OUTSIDE_KEY] = False
    """Compile the network with torch.compile, which needs a C++ compiler; results differ only by
    rounding."""
    channels_last: Annotated[bool, Role.OUTSIDE_KEY] = False
    """Store the weights of convolutions, and so their maps, with channels last."""
    fused_optimizer: Annotated[bool, Role.OUTSIDE_KEY] = True
    """Update all weights in one kernel; results differ only by rounding."""

    @property
    def input_size(self) -> int:
        """Side of the square input in pixels, for training and evaluation."""
        return img_size_of(self.model) if self.img_size is None else self.img_size

    @property
    def reference_lr(self) -> float:
        """The reference's peak learning rate for this batch."""
        return REFERENCE_LR * self.batch_size / REFERENCE_BATCH

    @property
    def peak_lr(self) -> float:
        return settled(self.lr, self.reference_lr)

    @property
    def stated_lr(self) -> float:
        """`peak_lr` before rounding. If `lr` is given, no other field is read, so checks need no
        more."""
        return self.peak_lr if self.lr is None else self.lr

    @property
    def final_lr(self) -> float:
        return settled(self.min_lr, self.peak_lr / 100)

    @property
    def first_lr(self) -> float:
        return settled(self.warmup_lr, self.peak_lr / 1000)

    @property
    def checking_fields(self) -> frozenset[str]:
        return frozenset({"num_classes"})

    def usual(self) -> Mapping[str, Usual]:
        """The value that each optional param takes by default, and the published name of the
        model's settings."""
        peak, model = frozenset({"lr", "batch_size"}), frozenset({"model"})
        return {
            "lr": Usual(self.reference_lr, follows=frozenset({"batch_size"})),
            "min_lr": Usual(self.peak_lr / 100, follows=peak),
            "warmup_lr": Usual(self.peak_lr / 1000, follows=peak),
            "img_size": Usual(img_size_of(self.model), follows=model),
            "drop_path_rate": Usual(settings_of(self.model).drop_path_rate, follows=model),
            "model": usual_name(self.model),
        }

    @property
    def is_mixing(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0

    def batch_multiple(self, num_workers: int) -> int:
        """The number that `batch_size` must be a multiple of: equal parts for all workers, and
        pairs of images if they are mixed."""
        return num_workers * self.accumulate * (2 if self.is_mixing else 1)

    def micro_batch_size(self, num_workers: int) -> int:
        """Images that a worker computes at a time if `num_workers` share a batch equally."""
        return self.batch_size // (num_workers * self.accumulate)

    def fits_workers(self, num_workers: int) -> bool:
        """Whether `num_workers` workers can share a batch equally."""
        return self.batch_size % self.batch_multiple(num_workers) == 0

    def checks(self) -> tuple[Check, ...]:
        return (
            self._min_lr_fits,
            self._warmup_lr_fits,
            self._parts_fit,
            self._patches_fit,
            self._head_is_there,
            self._scale_rises,
            self._ratio_rises,
            self._pairs_fit,
        )

    def _min_lr_fits(self) -> Iterator[Misfit]:
        if self.min_lr is not None and self.min_lr > self.stated_lr:
            yield Misfit(
                ("min_lr",),
                f"min_lr {self.min_lr:g} exceeds the peak learning rate, lr {self.stated_lr:g}",
            )

    def _warmup_lr_fits(self) -> Iterator[Misfit]:
        if self.warmup_lr is not None and self.warmup_lr > self.stated_lr:
            message = (
                f"warmup_lr {self.warmup_lr:g} exceeds the peak learning rate, lr "
                f"{self.stated_lr:g}"
            )
            yield Misfit(("warmup_lr",), message)

    def _parts_fit(self) -> Iterator[Misfit]:
        if self.accumulate > self.batch_size:
            yield Misfit(
                ("accumulate",),
                f"accumulate {self.accumulate} exceeds batch_size {self.batch_size}",
            )

    def _patches_fit(self) -> Iterator[Misfit]:
        patch_size = self.model.patch_size if isinstance(self.model, ModelParams) else 4
        if self.img_size is not None and self.img_size < patch_size:
            message = f"img_size {self.img_size} is less than the model's patch_size {patch_size}"
            yield Misfit(("img_size",), message)

    def _head_is_there(self) -> Iterator[Misfit]:
        if self.reset_head and self.weights is None:
            yield Misfit(
                ("reset_head",), "reset_head: true needs `weights`, whose head it replaces"
            )

    def _scale_rises(self) -> Iterator[Misfit]:
        if self.scale[0] > self.scale[1]:
            yield Misfit(("scale",), _swapped("scale", self.scale))

    def _ratio_rises(self) -> Iterator[Misfit]:
        if self.ratio[0] > self.ratio[1]:
            yield Misfit(("ratio",), _swapped("ratio", self.ratio))

    def _pairs_fit(self) -> Iterator[Misfit]:
        if self.is_mixing and self.batch_size % 2:
            message = (
                f"batch_size {self.batch_size} is odd, but mixup and cutmix mix images in pairs"
            )
            yield Misfit(("batch_size",), message)


def _swapped(field: str, limits: tuple[float, float]) -> str:
    first, second = limits
    return f"{field}: minimum {first:g} exceeds maximum {second:g}; write [{second:g}, {first:g}]"


class PretrainEvaluationParams(DetailParams, PretrainParams):
    """Evaluates a classifier on val: its scores, its size and its speed."""
