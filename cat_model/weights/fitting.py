"""Holds tensors against the model that is to take them: what fits, what does not, and a report of
both.

Nothing is left out, resized or missing unless the caller allows it, and what was allowed is
reported.
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
    """The differences that a caller asked for, in our names."""

    missing: frozenset[str] = frozenset()
    """Tensors of the model that need not be given."""
    unexpected: frozenset[str] = frozenset()
    """Tensors that may be left out."""


STRICT = Allowance()


@dataclass(frozen=True)
class FitReport:
    """What became of each tensor."""

    mapped: Mapping[str, str]
    """Our name -> the name that the tensor came with, for all that were taken."""
    resized: Mapping[str, tuple[Shape, Shape]]
    """Our name -> the shape before and after, for names in `mapped` that were interpolated."""
    missing: tuple[str, ...]
    """Tensors of the model that nothing was given for, by our names: they start fresh."""
    unexpected: tuple[str, ...]
    """Tensors that were left out, by the names that they came with."""
    dropped: tuple[str, ...]
    """Index buffers, which our model computes, by the names that they came with."""

    def lines(self) -> list[str]:
        """The report as text, one line a fact."""
        resized = [f"{name} {before} -> {after}" for name, (before, after) in self.resized.items()]
        facts = {"mapped": [f"{len(self.mapped)} tensors"], "resized": resized}
        facts |= {"new": list(self.missing), "left out": list(self.unexpected)}
        facts |= {"recomputed": [f"{len(self.dropped)} index buffers"] if self.dropped else []}
        return [f"{fact}: {', '.join(entries)}" for fact, entries in facts.items() if entries]


@dataclass(frozen=True)
class Fit:
    """Tensors that a model can take as they are, by our names, and where they come from."""

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
    """The `wanted` tensors (values do not matter, their shapes do) out of `weights`.

    `resize` interpolates `ape` to the wanted map. Raises WeightsError, with `source` and all that
    differs, for any difference that neither it nor `allow` covers.
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
    """What keeps `weights` from being the `wanted` tensors by name and shape, as floats; a line
    each, sorted."""
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
    """`given` with its `ape` at the size of the wanted one, where both are maps of the same
    channels."""
    ape, target = given.get("ape"), wanted.get("ape")
    if ape is None or target is None or ape.ndim != 4 or ape.shape[::3] != target.shape[::3]:
        return given
    # 8-bit floats have no interpolation
    ape_1HWC = ape.float() if ape.element_size() < 4 else ape
    return {**given, "ape": resize_ape(ape_1HWC, (target.shape[1], target.shape[2])).to(ape.dtype)}
