"""The golden vectors: weights and inputs from a rule that needs only numpy, and the reference's
values for them.

Streams are keyed by the reference's state_dict names, so any order of names gives the same tensors.
`rows_note` in each JSON file describes the layout of values: a statistic row is mean, std, absmax,
l2, and a sample row holds the flattened tensor's values at `sample_indices`.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

DATA_DIR = Path(__file__).parents[1] / "data" / "golden"
TAGS = tuple(sorted(path.stem for path in DATA_DIR.glob("*.json")))
STATISTICS = 4  # mean, std, absmax, l2
ABSMAX = 2


@dataclass(frozen=True)
class Vector:
    """One golden vector: the inputs of the reference and its outputs."""

    tag: str
    description: dict[str, Any]
    arrays: dict[str, NDArray[Any]]

    @property
    def is_backbone(self) -> bool:
        return "backbone" in self.tag

    @property
    def kwargs(self) -> dict[str, Any]:
        kwargs: dict[str, Any] = self.description["kwargs"]
        return kwargs

    @property
    def seed(self) -> int:
        return int(self.description["seed"])

    def image(self) -> Tensor:
        return torch.from_numpy(
            unit(self.seed, "input", tuple(self.description["input_shape"])).astype(np.float32)
        )

    def state_dict(self) -> dict[str, Tensor]:
        """The reference's state_dict; index buffers have only their shape, because their values are
        not needed."""
        return {
            name: parameter(self.seed, name, tuple(shape))
            if dtype == "float32"
            else torch.zeros(shape, dtype=torch.int64)
            for name, shape, dtype in self.description["state_dict"]
        }

    def loss(self, outputs: tuple[Tensor, ...]) -> Tensor:
        names = [f"loss_w{i}" for i in range(len(outputs))] if self.is_backbone else ["loss_w"]
        return torch.stack([
            (output * torch.from_numpy(unit(self.seed, name, output.shape).astype("f4"))).mean()
            for name, output in zip(names, outputs, strict=True)
        ]).sum()  # fmt: skip

    def labels(self, num_classes: int) -> Tensor:
        raw = _raw(self.seed, "labels", int(self.description["input_shape"][0]))
        return torch.from_numpy((raw % np.uint64(num_classes)).astype(np.int64))

    def statistics(self, group: str) -> dict[str, NDArray[Any]]:
        """Mean, std, absmax and l2 of each tensor of `group` (act, out, grad or adamw), by name."""
        return dict(zip(self._rows(f"{group}.stat"), self.arrays[f"{group}.stat"], strict=True))

    def samples(self, group: str) -> dict[str, NDArray[Any]]:
        """The sampled values of each tensor of `group`, by name."""
        found: dict[str, NDArray[Any]] = {}
        for key in (f"{group}.samp", f"{group}_64.samp"):
            if key in self.arrays:
                found |= dict(zip(self._rows(key), self.arrays[key], strict=True))
        return found

    def _rows(self, key: str) -> list[str]:
        rows: dict[str, list[str]] = self.description["rows"]
        return rows[key] if key in rows else rows[key.replace(".samp", ".stat")]


def load_vector(tag: str) -> Vector:
    with np.load(DATA_DIR / f"{tag}.npz", allow_pickle=False) as arrays:
        return Vector(tag, json.loads((DATA_DIR / f"{tag}.json").read_text()), dict(arrays))


def unit(seed: int, name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Independent uniform numbers of mean 0 and variance 1, the same with every numpy version."""
    u = (_raw(seed, name, int(np.prod(shape))) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    z: NDArray[np.float64] = ((2 * u - 1) * np.sqrt(3.0)).reshape(shape)
    return z


def parameter(seed: int, name: str, shape: tuple[int, ...]) -> Tensor:
    """The float32 parameter with the reference's name `name`."""
    # The backbone's `ape` is the classifier's with its channels moved to the front.
    if name == "ape" and len(shape) == 4:
        _, channels, height, width = shape
        return (
            parameter(seed, name, (1, height * width, channels))
            .permute(0, 2, 1)
            .reshape(shape)
            .contiguous()
        )
    z = unit(seed, name, shape)
    if name == "ape" or name.endswith("relative_position_bias_table"):
        z = 0.5 * z
    elif len(shape) == 1:
        z = 1 + 0.1 * z if name.endswith(".weight") else 0.1 * z
    else:
        z = z / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(z.astype(np.float32))


def sample_indices(name: str, size: int, count: int) -> NDArray[np.int64]:
    """Indices of the samples of a flattened tensor of `size` values; `name` has its prefix, as in
    `grad/ape`."""
    return (_raw(7, f"sample:{name}", count) % np.uint64(size)).astype(np.int64)


def _raw(seed: int, name: str, count: int) -> NDArray[np.uint64]:
    raw: NDArray[np.uint64] = np.random.PCG64(
        np.random.SeedSequence([seed, zlib.crc32(name.encode())])
    ).random_raw(count)
    return raw
