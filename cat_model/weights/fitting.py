"""Compares tensors with the model that takes them, and reports what fits and what does not.

Nothing is left out, resized or missing unless the caller allows it; everything allowed is reported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from cat_model.embedding import resize_ape
from cat_model.errors import WeightsError
from cat_model.weights.layouts import Weights

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Allowance:
    """The differences that a caller allows, in our names."""

    missing: frozenset[str] = frozenset()
    """Tensors of the model that may be missing."""
    unexpected: frozenset[str] = frozenset()
    """Tensors that may be left out."""


STRICT = Allowance()


@dataclass(frozen=True)
class FitReport:
    """What happened to each tensor."""

    mapped: Mapping[str, str]
    """Our name -> the original name, for all tensors that were used."""
    resized: Mapping[str, tuple[Shape, Shape]]
    """Our name -> the shapes before and after, for names in `mapped` that were interpolated."""
    missing: tuple[str, ...]
    """Tensors of the model that no tensor was given for, by our names: they keep the model's own
    values."""
    unexpected: tuple[str, ...]
    """Tensors that were left out, by their original names."""
    dropped: tuple[str, ...]
    """Index buffers, which our model computes, by their original names."""

    def lines(self) -> list[str]:
        """The report as text, one line per fact."""
        resized = [f"{name} {before} -> {after}" for name, (before, after) in self.resized.items()]
        facts = {"mapped": [f"{len(self.mapped)} tensors"], "resized": resized}
        facts |= {"new": list(self.missing), "left out": list(self.unexpected)}
        facts |= {"recomputed": [f"{len(self.dropped)} index buffers"] if self.dropped else []}
        return [f"{fact}: {', '.join(entries)}" for fact, entries in facts.items() if entries]


@dataclass(frozen=True)
class Fit:
    """Tensors, by our names, that a model can load as they are, and where they come from."""

    tensors: Mapping[str, Tensor]
    report: FitReport


def fit(
    wanted: Mapping[str, Tensor],
    weights: Weights,
    *,
    source: str,
    allow: Allowance = STRICT,
    resize: bool = False,
) -> Fit:
    """The `wanted` tensors, taken from `weights`; of `wanted`, only names and shapes matter.

    `resize` interpolates `ape` to the wanted map. Raises WeightsError, with `source` and a list of
    all differences, if one is covered by neither `resize` nor `allow`.
    """
    given = _resized(weights.tensors, wanted) if resize else weights.tensors
    faults = find_faults(wanted, replace(weights, tensors=given), allow=allow)
    if faults:
        listed = "\n  ".join(faults)
        raise WeightsError(f"{source} differ in {len(faults)} tensors:\n  {listed}")
    shapes = {
        name: (tuple(weights.tensors[name].shape), tuple(tensor.shape))
        for name, tensor in given.items()
    }
    report = FitReport(
        mapped={name: weights.original_name(name) for name in given if name in wanted},
        resized={
            name: (before, after) for name, (before, after) in shapes.items() if before != after
        },
        missing=tuple(name for name in wanted if name not in given),
        unexpected=tuple(weights.original_name(name) for name in given if name not in wanted),
        dropped=weights.dropped,
    )
    return Fit({name: given[name] for name in report.mapped}, report)


def find_faults(
    wanted: Mapping[str, Tensor], weights: Weights, *, allow: Allowance = STRICT
) -> list[str]:
    """The differences between `weights` and the `wanted` tensors by name, shape and type (floats);
    one line each, sorted."""
    given, original_name = weights.tensors, weights.original_name
    missing = wanted.keys() - given.keys() - allow.missing
    unexpected = given.keys() - wanted.keys() - allow.unexpected
    faults = [f"missing: {original_name(name)} {tuple(wanted[name].shape)}" for name in missing]
    faults += [
        f"unexpected: {original_name(name)} {tuple(given[name].shape)}" for name in unexpected
    ]
    for name in wanted.keys() & given.keys():
        seen, needed = given[name], wanted[name]
        if seen.shape != needed.shape:
            faults.append(
                f"shape: {original_name(name)} is {tuple(seen.shape)}, the model needs "
                f"{tuple(needed.shape)}"
            )
        elif not seen.is_floating_point():
            faults.append(f"type: {original_name(name)} is {seen.dtype}, the model needs floats")
    return sorted(faults)


def _resized(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """`given` with its `ape` resized to the wanted one, if both are maps of the same channels."""
    ape, target = given.get("ape"), wanted.get("ape")
    if ape is None or target is None or ape.ndim != 4 or ape.shape[::3] != target.shape[::3]:
        return given
    # 8-bit floats cannot be interpolated
    ape_1HWC = ape.float() if ape.element_size() < 4 else ape
    return {**given, "ape": resize_ape(ape_1HWC, (target.shape[1], target.shape[2])).to(ape.dtype)}
