"""The params that detection and segmentation share: the start of training, the data and AdamW."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from orchestrator.contract import Check, Misfit, Params, Role, Usual, settled
from orchestrator.errors import DataError
from pipelines.cat.params import Model, usual_name
from pipelines.data.faults import first_named
from pipelines.data.folder import Data

Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]
Probability = Annotated[float, Field(ge=0, le=1)]


def _is_config(config: str) -> str:
    if not config.endswith(".py") or "://" in config:
        raise ValueError(f"must be a .py config file or LIBRARY::PATH.py, not {config!r}")
    return config


ConfigPath = Annotated[str, AfterValidator(_is_config)]

SIZES = ("params_m", "flops_g")
"""Names of the metrics of a network's size: parameters in millions, multiply-accumulates in
billions."""

REFERENCE_BATCH = 16
"""Images per iteration for which the learning rates are published: 8 GPUs with 2 each."""


class FinetuneParams(Params):
    """Fields of every stage that trains a detector or a segmenter on CAT."""

    published_lr: ClassVar[float]
    """Highest learning rate of the published recipe, for REFERENCE_BATCH images."""

    backbone: Annotated[str | None, Role.INPUT] = None
    """The pretrained checkpoint to start from: `pretrain.checkpoint`, or a file (a path or s3://)
    in the official or timm's layout. Not with `init: scratch`."""
    init: Literal["pretrained", "scratch"] = "pretrained"
    """Start of the backbone: the weights of `backbone` (pretrained), or random weights from the
    seed (scratch)."""
    model: Annotated[Model | None, Role.MODEL] = None
    """The CAT: `cat_tiny`, `cat_small`, `cat_base`, or a mapping of settings, as in pretraining.
    `init: scratch` needs it. A pretrained `backbone` contains its settings; if `model` is given
    too, they must agree."""
    data: Data
    """Folder of the data set in its published layout, or `s3://BUCKET/PREFIX`, or `sample:digits`.
    S3 holds the same files or the published archives; each machine fetches them once."""
    config: Annotated[ConfigPath | None, Role.DATA] = None
    """Instead of `method`: a config of mmdet or mmseg. Give a .py file, which every machine must
    have, like the data, or `mmdet::PATH` or `mmseg::PATH` for a file of the installed library. Only
    its `model` is used, adapted to CAT and to the classes of the data."""
    keep_backbone: bool = False
    """Whether the model of `config` keeps its own backbone instead of CAT; it then starts from
    random weights."""
    num_classes: Positive | None = None
    """Number of classes that the data must have; None accepts any number."""
    classes: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Names of the classes that the data must have, in this order; None accepts any names."""
    batch_size: Positive = 16
    """Images per iteration over all workers; a multiple of the number of workers."""
    lr: Annotated[float, Field(gt=0)] | None = None
    """Highest learning rate for the whole batch, for any number of workers. None: the published
    rate for 16 images, times batch_size / 16."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    """Weight decay of AdamW, for all parameters except norms and position parameters."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor on the learning rate from each depth of the backbone to the depth before it. Neck and
    heads learn at the full rate. 1: the backbone does too."""
    frozen_stages: Annotated[int, Field(ge=0, le=4)] | None = None
    """Number of the backbone's first stages that are frozen, together with the embeddings. 0: only
    the embeddings; None: nothing is frozen. The norms of the backbone's maps are new and always
    learn."""
    min_lr: Annotated[float, Field(ge=0)] = 0.0
    """Learning rate at which a poly or cosine schedule ends."""
    clip_grad: Annotated[float, Field(gt=0)] | None = None
    """Largest 2-norm of all gradients together; None: no clipping, as published."""
    flip_prob: Probability = 0.5
    """Probability of a left-right flip in training."""
    drop_path_rate: Rate | None = 0.2
    """Stochastic depth rate of the backbone's last group. None keeps the rate of its pretraining or
    of `model`."""
    fidelity: Literal["intent", "reference"] = "intent"
    """Behaviour where the reference's code differs from its evident intent. `reference` follows the
    code in how FCOS normalises images and in the decay of the position embedding. See
    docs/deviations.md."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of training; validation is always fp32. bf16 and fp16 need a GPU."""
    max_broken_images: Annotated[int, Field(ge=0)] = 0
    """Largest number of images that may fail to decode. They are left out, also from validation."""
    loader_workers: Annotated[int, Field(ge=0, le=64), Role.OUTSIDE_KEY] = 2
    """Processes per worker that load images; 0 loads them in the training process."""
    keep_best: Annotated[int, Field(ge=0, le=100), Role.OUTSIDE_KEY] = 1
    """Number of checkpoints with the best score (box_map, miou) to keep until the stage is done, in
    addition to the latest. From 1 on, each validation ends with a checkpoint."""
    compile: Annotated[bool, Role.OUTSIDE_KEY] = False
    """Whether to compile backbone, feature pyramid and focal loss with torch.compile, which needs a
    C++ compiler. Results differ only by rounding."""

    def fits_workers(self, num_workers: int) -> bool:
        """Whether `num_workers` workers can share a batch equally."""
        return self.batch_size % num_workers == 0

    @property
    def sizes(self) -> tuple[str, ...]:
        """The metrics of the network's size. For the model of a config file only the parameters are
        counted."""
        return SIZES if self.config is None else SIZES[:1]

    @property
    def scaled_lr(self) -> float:
        """The published learning rate for this batch."""
        return self.published_lr * self.batch_size / REFERENCE_BATCH

    @property
    def peak_lr(self) -> float:
        return settled(self.lr, self.scaled_lr)

    @property
    def stated_lr(self) -> float:
        """`peak_lr`, except for rounding. If `lr` is given it reads no other field, so a check
        depends only on `lr`."""
        return self.peak_lr if self.lr is None else self.lr

    @property
    def checking_fields(self) -> frozenset[str]:
        """Fields that only check data or inputs. Includes `model` if a pretrained backbone defines
        the network."""
        return frozenset({"num_classes", "classes", *(() if self.backbone is None else ("model",))})

    def usual(self) -> Mapping[str, Usual]:
        """The published rate, scaled, and the published name of the model's settings."""
        named = {} if self.model is None else {"model": usual_name(self.model)}
        return {"lr": Usual(self.scaled_lr, follows=frozenset({"batch_size"})), **named}

    def start_misfits(self) -> Iterator[Misfit]:
        """Errors in the fields that define the start of training.

        These are not part of `checks`, because an evaluation has the same params but no start.
        """
        if self.keep_backbone:
            yield from self._kept_misfits()
            return
        if self.init == "pretrained" and self.backbone is None:
            message = (
                "is missing: give the checkpoint to start from, or set init: scratch and a `model`"
            )
            yield Misfit(("backbone",), message)
        if self.init == "scratch" and self.backbone is not None:
            message = (
                "cannot be used with init: scratch, which starts from random weights; remove one "
                "of them"
            )
            yield Misfit(("backbone",), message)
        if self.init == "scratch" and self.model is None:
            yield Misfit(("model",), "is missing: init: scratch needs it, such as cat_small")

    def _kept_misfits(self) -> Iterator[Misfit]:
        if self.init == "pretrained":
            message = (
                "must be scratch with keep_backbone, because a CAT checkpoint does not fit "
                "another backbone"
            )
            yield Misfit(("init",), message)
        for name in ("backbone", "model", "frozen_stages"):
            if getattr(self, name) is not None:
                message = (
                    "applies to CAT, but keep_backbone uses the backbone of `config`; remove one "
                    "of them"
                )
                yield Misfit((name,), message)
        if self.layer_decay < 1:
            yield Misfit(("layer_decay",), "works only with CAT; leave it out with keep_backbone")

    @property
    def method_or_config(self) -> tuple[str | None, str | None]:
        """Both fields that can name the model; exactly one of them does."""
        raise NotImplementedError

    @property
    def has_source(self) -> bool:
        """Whether exactly one field names the model."""
        method, config = self.method_or_config
        return (method is None) != (config is None)

    def checks(self) -> tuple[Check, ...]:
        return (
            self._has_one_source,
            self._keeps_a_config,
            self._classes_differ,
            self._classes_are_counted,
        )

    def _has_one_source(self) -> Iterator[Misfit]:
        if not self.has_source:
            method, _ = self.method_or_config
            message = (
                "must have either `method` (a model by name) or `config` (a config file of its "
                "library)"
            )
            yield Misfit(() if method is None else ("config",), message)

    def _keeps_a_config(self) -> Iterator[Misfit]:
        if self.keep_backbone and self.config is None:
            yield Misfit(("keep_backbone",), "needs `config`; the methods are built on CAT")

    def _classes_differ(self) -> Iterator[Misfit]:
        classes = self.classes or ()
        twice = sorted({name for name in classes if classes.count(name) > 1})
        if twice:
            yield Misfit(("classes",), f"lists {', '.join(twice)} more than once")

    def _classes_are_counted(self) -> Iterator[Misfit]:
        if self.classes is not None and self.num_classes not in (None, len(self.classes)):
            message = f"is {self.num_classes}, but `classes` has {len(self.classes)}; leave one out"
            yield Misfit(("num_classes",), message)

    def check_classes(self, found: Sequence[str], where: object) -> None:
        """Raises DataError unless the classes `found` in the data at `where` are the classes that
        the job asks for."""
        if self.num_classes not in (None, len(found)):
            raise DataError(
                f"{where}: has {len(found)} classes, but num_classes is {self.num_classes}; "
                "correct num_classes or leave it out"
            )
        if self.classes not in (None, tuple(found)):
            raise DataError(
                f"{where}: {_difference(found, self.classes or ())}; correct `classes`, or leave "
                "it out"
            )


def _difference(found: Sequence[str], asked: Sequence[str]) -> str:
    """How the classes `found` differ from the classes `asked` for."""
    lacking, more = (
        [name for name in one if name not in other]
        for one, other in ((asked, found), (found, asked))
    )
    if lacking:
        return f"lacks the classes {first_named(lacking)}"
    if more:
        return f"also has the classes {first_named(more)}"
    index = next(
        index for index, (one, other) in enumerate(zip(found, asked, strict=True)) if one != other
    )
    return f"has its classes in another order: {found[index]} comes before {asked[index]}"
