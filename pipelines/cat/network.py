"""The network that a job configures, and the check that a checkpoint holds it."""

from __future__ import annotations

from cat_model.config import CONFIGS, CatConfig
from orchestrator.errors import CheckpointError
from pipelines.cat.params import ModelName, ModelParams

TRAINING_ONLY = frozenset({"drop_rate", "attn_drop_rate", "drop_path_rate"})
"""Fields of a CatConfig that matter only in training, so a checkpoint may differ in them."""


def config_of(model: ModelName | ModelParams) -> CatConfig:
    """The published network of that name, or the network that the params describe."""
    return CONFIGS[model] if isinstance(model, str) else CatConfig(**model.model_dump())


def check_network(
    held: CatConfig,
    wanted: CatConfig,
    *,
    what: str,
    wanted_by: str,
    correct: str,
    ignores_img_size: bool = False,
) -> None:
    """Raises CheckpointError unless the two networks are equal, ignoring fields that only training
    uses.

    `ignores_img_size` also ignores the image size, for callers that interpolate the position
    embedding to the job's size. The error says that `what` holds a different network than
    `wanted_by`, and to correct the fields `correct`.
    """
    ignored = TRAINING_ONLY | ({"img_size"} if ignores_img_size else set())
    own, asked = held.to_dict(), wanted.to_dict()
    differing = [
        f"{name} {own[name]} instead of {asked[name]}"
        for name in own
        if name not in ignored and own[name] != asked[name]
    ]
    if differing:
        raise CheckpointError(
            f"{what}: holds a different network than {wanted_by}: {', '.join(differing)}; correct "
            f"{correct}"
        )
