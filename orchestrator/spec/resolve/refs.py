"""The text `stage.output` -> Ref, and whether the stage has that output and the field takes it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from orchestrator.artifact import Ref
from orchestrator.contract import Kind
from orchestrator.spec.faults import shown, suggestion
from orchestrator.spec.resolve.matrix import cells_named

_REF = re.compile(r"([A-Za-z][A-Za-z0-9_/-]*)\.([A-Za-z][A-Za-z0-9_]*)")
_OUTSIDE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|[./~$%`]|.*\.(pth|pt|safetensors|ckpt)$")


def is_outside(text: str) -> bool:
    """Whether the text is a location outside the job, rather than an output of a stage."""
    return _OUTSIDE.match(text) is not None


def parse_ref(text: str, stages: Mapping[str, Kind | None]) -> Ref:
    """ValueError says what is wrong with the text, or that it names no stage; `stages` are the
    kinds by stage."""
    match = _REF.fullmatch(text)
    if match is not None and match[1] in stages:
        return Ref(match[1], match[2])
    if is_outside(text):
        raise ValueError(
            f"must be an output of a stage, written STAGE.OUTPUT: {shown(text)} is outside the job"
        )
    if match is None:
        raise ValueError(
            f"must be written STAGE.OUTPUT{_completed(text, stages)}, not {shown(text)}"
        )
    raise ValueError(unknown_stage(match[1], stages))


def unknown_stage(name: str, stages: Mapping[str, object] | Sequence[str]) -> str:
    """What is wrong with the name of a stage that is none of `stages`."""
    cells = cells_named(name, stages)
    if cells:
        listed = ", ".join(cells[:3]) + (", ..." if len(cells) > 3 else "")  # noqa: PLR2004
        return f"{name!r} is a matrix; name one of its cells ({listed}), or all of them by {name}/*"
    return f"unknown stage {name!r}{suggestion(name, stages)}"


def _completed(text: str, stages: Mapping[str, Kind | None]) -> str:
    kind = stages.get(text)
    return f", such as {text}.{kind.outputs[0]}" if kind and kind.outputs else ""


def check_output(
    ref: Ref, kind: Kind | None, accepted: frozenset[str], *, stands_for: str | None = None
) -> None:
    """ValueError if `ref`, to a stage of `kind`, is not an output of it or not among the `accepted`
    (`kind.output`).

    `stands_for` is the output that it is as good as, where it is another kind's in all but its
    origin.
    """
    if kind is None:
        return  # the unknown kind has its own fault
    if ref.output not in kind.outputs:
        raise ValueError(
            f"{ref.stage} ({kind.name}) has no output "
            f"{ref.output!r}{suggestion(ref.output, kind.outputs)}"
        )
    offered = stands_for or f"{kind.name}.{ref.output}"
    if offered not in accepted:
        raise ValueError(
            f"takes an output of kind {' or '.join(sorted(accepted))}, but {ref} is {offered}"
        )
