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
"""Height and width in pixels for the published FLOPs: the default of the tool that counted them."""


def count_segmenter(config: Config) -> NetworkSize:
    """The size of a model of one of our methods. An auxiliary head adds only parameters, because
    inference does not run it."""
    with network_on_meta("mmseg", config) as network, counting(network) as count:
        network.decode_head(run_backbone(network, IMAGE_SIZE))
    return NetworkSize(count_params(network), count.macs)


COUNTER = Counter(IMAGE_SIZE, count_segmenter)
