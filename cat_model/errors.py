"""The only error about weights: files that cannot be read and tensors that do not fit."""

from __future__ import annotations


class WeightsError(ValueError):
    """Weights that cannot be read or do not fit the model; the text lists names and shapes."""
