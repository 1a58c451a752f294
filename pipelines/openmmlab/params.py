"""The params that detection and segmentation share: starting from a pretrained backbone with AdamW."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from orchestrator.contract import Input, Params, Role
from pipelines.data import Data

Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]
Probability = Annotated[float, Field(ge=0, le=1)]


class FinetuneParams(Params):
    """Fields of every stage that fine-tunes a pretrained CAT."""

    backbone: Input
    """The pretrained checkpoint to start from: `pretrain.checkpoint`, or a file of the official layout (a path, s3://)."""
    data: Data
    """Folder of the data set, in its published layout, or `sample:digits`."""
    num_classes: Positive | None = None
    """How many classes the data must have; None takes what the data says."""
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
    keep_best: Annotated[int, Field(ge=0, le=100), Role.OUTSIDE_KEY] = 1
    """Checkpoints with the best score (box_map, miou) that are kept besides the latest until the stage is done; with
    any, each validation ends with a checkpoint."""
    compile: Annotated[bool, Role.OUTSIDE_KEY] = False
    """Compile backbone and feature pyramid by torch.compile, which needs a C++ compiler; the same function but for
    rounding."""

    def fits_workers(self, num_workers: int) -> bool:
        """Whether `num_workers` workers can share a batch equally."""
        return self.batch_size % num_workers == 0
