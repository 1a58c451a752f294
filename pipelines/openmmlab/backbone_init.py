"""Decides how the backbone of a training starts, from a checkpoint or from random weights, and logs
the decision."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from cat_model import CatConfig
from orchestrator.contract import Event, StageContext
from orchestrator.errors import JobError
from pipelines.cat.network import check_network, config_of
from pipelines.openmmlab.backbone import ALL_MAPS, read_pretrained
from pipelines.openmmlab.params import REFERENCE_BATCH, FinetuneParams
from pipelines.openmmlab.recipe import Config, backbone


@dataclass(frozen=True)
class BackboneInit:
    """The network that training starts with, and the folder of its weights (None for random
    weights)."""

    config: CatConfig | None
    """None if the model of a config file keeps its own backbone."""
    checkpoint_dir: Path | None = None
    frozen_stages: int | None = None
    summary: str = "random weights"
    """What is loaded and what is not, for the log."""

    @property
    def backbone(self) -> Config:
        """The backbone's entry in a model config."""
        assert self.config is not None, "another backbone is its own config"
        directory = None if self.checkpoint_dir is None else str(self.checkpoint_dir)
        return backbone(self.config.to_dict(), directory, frozen_stages=self.frozen_stages)


def make_backbone_init(context: StageContext) -> BackboneInit:
    """Raises JobError if the params do not define a start, and CheckpointError if the checkpoint
    belongs to another network."""
    params: FinetuneParams = context.params
    misfits = [
        f"{'.'.join(map(str, misfit.steps))}: {misfit.message}" for misfit in params.start_misfits()
    ]
    if misfits:
        raise JobError("\n".join(misfits))
    if params.keep_backbone:
        return BackboneInit(None, summary="the config's own, random weights")
    start = (
        _from_scratch(params)
        if params.init == "scratch"
        else _from_checkpoint(params, context.inputs["backbone"])
    )
    assert start.config is not None
    if len(start.config.depths) != len(ALL_MAPS):
        raise JobError(
            f"backbone: has {len(start.config.depths)} stages, but detectors and segmenters need "
            f"{len(ALL_MAPS)}; use a CAT with {len(ALL_MAPS)} stages"
        )
    return start


def report_backbone_init(context: StageContext, start: BackboneInit) -> None:
    """Logs two lines on rank 0: how the backbone starts, and the learning rate."""
    if context.rank != 0:
        return
    params: FinetuneParams = context.params
    context.emit(Event(f"backbone: {start.summary}{_frozen(start.frozen_stages)}"))
    context.emit(Event(lr_line(params)))


def _frozen(num_stages: int | None) -> str:
    if num_stages is None:
        return ""
    return f"; frozen: embeddings{f' and the first {num_stages} stages' if num_stages else ''}"


def lr_line(params: FinetuneParams) -> str:
    """The log line on the learning rate, for example `lr 0.0002 for 32 images an iteration: the
    published 0.0001 for 16, scaled linearly`."""
    own = f"lr {params.peak_lr:g} for {params.batch_size} images an iteration"
    published = f"the published {params.published_lr:g} for {REFERENCE_BATCH}"
    if params.lr is None:
        scaled = "" if params.batch_size == REFERENCE_BATCH else ", scaled linearly"
        return f"{own}: {published}{scaled}"
    return f"{own}, set by the job; {published} would scale to {params.scaled_lr:g}"


def _from_scratch(params: FinetuneParams) -> BackboneInit:
    assert params.model is not None, "start_fault"
    config = config_of(params.model)
    if params.drop_path_rate is not None:
        config = replace(config, drop_path_rate=params.drop_path_rate)
    return BackboneInit(config, frozen_stages=params.frozen_stages)


def _from_checkpoint(params: FinetuneParams, directory: Path) -> BackboneInit:
    found = read_pretrained(directory, drop_path_rate=params.drop_path_rate)
    if params.model is not None:
        check_network(
            found.config,
            config_of(params.model),
            what="backbone",
            wanted_by="`model`",
            correct="`backbone` or `model`",
            ignores_img_size=True,
        )
    return BackboneInit(found.config, directory, params.frozen_stages, found.summary)
