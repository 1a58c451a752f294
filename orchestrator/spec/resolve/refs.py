"""Parse `STAGE.OUTPUT` into a Ref, and check that the stage has the output and the field accepts
it."""

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
    """Whether the text is a location outside the job instead of an output of a stage."""
    return _OUTSIDE.match(text) is not None


def parse_ref(text: str, stages: Mapping[str, Kind | None]) -> Ref:
    """Parse `STAGE.OUTPUT`. `stages` maps the name of each stage to its kind.

    Raises ValueError if the text is malformed or names an unknown stage.
    """
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
    """Describe what is wrong with a stage name that is not in `stages`."""
    cells = cells_named(name, stages)
    if cells:
        listed = ", ".join(cells[:3]) + (", ..." if len(cells) > 3 else "")  # noqa: PLR2004
        return f"{name!r} is a matrix; name one of its cells ({listed}), or write {name}/* for all"
    return f"unknown stage {name!r}{suggestion(name, stages)}"


def _completed(text: str, stages: Mapping[str, Kind | None]) -> str:
    kind = stages.get(text)
    return f", such as {text}.{kind.outputs[0]}" if kind and kind.outputs else ""


def check_output(
    ref: Ref, kind: Kind | None, accepted: frozenset[str], *, stands_for: str | None = None
) -> None:
    """Raise ValueError if `kind` has no such output, or if it is not in `accepted`.

    `accepted` has items `KIND.OUTPUT`. `stands_for` is the output of another kind that `ref` counts
    as, if any.
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
            f"needs an output of kind {' or '.join(sorted(accepted))}, but {ref} is {offered}"
        )
