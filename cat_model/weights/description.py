"""The description stored with tensors so that the network can be rebuilt: its config and class
names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cat_model.config import CatConfig
from cat_model.errors import WeightsError

FORMAT = 1
FIELDS = ("format", "config", "classes")
KEY = "cat_model"
"""Where single files store it: in the metadata of a .safetensors file, under `meta` in a torch
file."""


@dataclass(frozen=True)
class Description:
    """A network's config, and its classes in the order of its logits; None if they are unknown."""

    config: CatConfig
    classes: tuple[str, ...] | None

    def to_dict(self) -> dict[str, object]:
        """The description as JSON values; `parse_description` reads them back."""
        classes: Sequence[str] | None = None if self.classes is None else list(self.classes)
        return {"format": FORMAT, "config": self.config.to_dict(), "classes": classes}


def parse_description(content: object, *, source: str) -> Description:
    """The description from JSON values, checked field by field. Raises WeightsError, whose text
    begins with `source`."""
    if not isinstance(content, dict) or set(content) != set(FIELDS):
        raise WeightsError(
            f"{source}: must be a mapping with exactly the fields format, config and classes"
        )
    if content["format"] != FORMAT:
        raise WeightsError(f"{source}: format must be {FORMAT}, got {content['format']!r}")
    classes = content["classes"]
    if classes is not None and not (
        isinstance(classes, list) and all(isinstance(name, str) for name in classes)
    ):
        raise WeightsError(f"{source}: classes must be a list of names")
    if not isinstance(content["config"], dict):
        raise WeightsError(f"{source}: config must be a mapping")
    try:
        config = CatConfig.from_dict(content["config"])
    except ValueError as err:
        raise WeightsError(f"{source}: config: {err}") from err
    return Description(config, None if classes is None else tuple(classes))
