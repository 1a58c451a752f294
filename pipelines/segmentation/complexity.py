"""Counts the parameters and multiply-accumulates of a segmenter, without weights and data."""

from __future__ import annotations

import pipelines.openmmlab.backbone  # noqa: F401 - registers CAT
from pipelines.openmmlab.counting import (
    NetworkSize,
    count_params,
    counting,
    network_on_meta,
    run_backbone,
)
from pipelines.openmmlab.recipe import Config
from pipelines.openmmlab.record import Counter

IMAGE_SIZE = 1024, 1024
"""Height and width in pixels for which the published FLOPs hold: the default of the tool that
counted them."""


def count_segmenter(config: Config) -> NetworkSize:
    """The size of a model of one of our methods; an auxiliary head, which inference leaves out, has
    only parameters."""
    with network_on_meta("mmseg", config) as network, counting(network) as count:
        network.decode_head(run_backbone(network, IMAGE_SIZE))
    return NetworkSize(count_params(network), count.macs)


COUNTER = Counter(IMAGE_SIZE, count_segmenter)
