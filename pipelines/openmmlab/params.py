"""The params that detection and segmentation share: starting from a pretrained backbone with AdamW."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from orchestrator.contract import Input, Params, Role
from orchestrator.errors import DataError
from pipelines.data import Data
from pipelines.faults import first_named

Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]
Probability = Annotated[float, Field(ge=0, le=1)]


class FinetuneParams(Params):
    """Fields of every stage that fine-tunes a pretrained CAT."""

    backbone: Input
    """The pretrained checkpoint to start from: `pretrain.checkpoint`, or a file of the official layout (a path, s3://)."""
    data: Data
    """Folder of the data set, in its published layout; or `s3://BUCKET/PREFIX` with the same files or the published
    archives, which each machine fetches once; or `sample:digits`."""
    num_classes: Positive | None = None
    """How many classes the data must have; None takes what the data says."""
    classes: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Names of the classes that the data must have, in this order; None takes what the data says."""
    batch_size: Positive = 16
    """Images an iteration over all workers together; a multiple of the number of workers."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    """AdamW's, for all but norms and position parameters."""
    min_lr: Annotated[float, Field(ge=0)] = 0.0
    """Learning rate at which a poly or cosine schedule ends."""
    clip_grad: Annotated[float, Field(gt=0)] | None = None
    """Largest 2-norm of all gradients together; None: not clipped, as published."""
    flip_prob: Probability = 0.5
    """Probability of a left-right flip in training."""
    drop_path_rate: Rate | None = 0.2
    """Stochastic depth of the backbone's last group; None keeps the rate of its pretraining."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of training; validation is always fp32. bf16 and fp16 need a GPU."""
    max_broken_images: Annotated[int, Field(ge=0)] = 0
    """Images that may fail to decode; up to so many are left out, from validation too."""
    loader_workers: Annotated[int, Field(ge=0, le=64), Role.OUTSIDE_KEY] = 2
    """Processes that load images, for each worker; 0 loads in the training process."""

    @model_validator(mode="after")
    def _classes_are_countable(self) -> Self:
        if self.classes is None:
            return self
        twice = sorted({name for name in self.classes if self.classes.count(name) > 1})
        if twice:
            raise ValueError(f"classes: {', '.join(twice)} twice")
        if self.num_classes not in (None, len(self.classes)):
            raise ValueError(
                f"num_classes: is {self.num_classes}, but `classes` has {len(self.classes)}; leave one out"
            )
        return self

    def check_classes(self, found: Sequence[str], where: object) -> None:
        """Raises DataError unless the classes `found` in the data at `where` are those that the job asks for."""
        if self.num_classes not in (None, len(found)):
            raise DataError(
                f"{where}: has {len(found)} classes, but num_classes is {self.num_classes}; correct it or leave it out"
            )
        if self.classes not in (None, tuple(found)):
            raise DataError(f"{where}: {_difference(found, self.classes or ())}; correct `classes`, or leave it out")


def _difference(found: Sequence[str], asked: Sequence[str]) -> str:
    """How classes that are not those asked for differ from them."""
    lacking, more = ([name for name in one if name not in other] for one, other in ((asked, found), (found, asked)))
    if lacking:
        return f"has no classes {first_named(len(lacking), lacking)}"
    if more:
        return f"also has {first_named(len(more), more)}"
    place = next(place for place, (one, other) in enumerate(zip(found, asked, strict=True)) if one != other)
    return f"has its classes in another order: {found[place]} comes before {asked[place]}"
