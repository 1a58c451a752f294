"""Resolve evaluations: `of` measures a stage, `task` measures models of a kind."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from orchestrator.artifact import Ref
from orchestrator.contract import CHECKPOINT, Kind, Params
from orchestrator.spec.faults import Faults, dotted, shown, suggestion
from orchestrator.spec.kinds.evaluate import EVALUATE, EvaluateParams, evaluation_of
from orchestrator.spec.kinds.tune import TUNE
from orchestrator.spec.resolve.draft import Common, Draft, outside_files, with_params
from orchestrator.spec.resolve.overlay import OVERRIDES, absolute_overrides, overridden
from orchestrator.spec.resolve.refs import unknown_stage
from orchestrator.spec.validate import check, missing_fields, sound_part
from orchestrator.spec.yaml.node import Node, marked, put

FIELDS = tuple(EvaluateParams.model_fields)
SEARCHED = "params_from"
INPUTS_ARE = f"an evaluation reads only its `{CHECKPOINT}`"


def resolve_evaluation(
    draft: Draft,
    drafts: Mapping[str, Draft],
    kinds: Mapping[str, Kind],
    base_dir: Path | None,
    faults: Faults,
) -> Draft:
    """Return the draft of an evaluation with the kind and params of what it measures.

    Kind and params are None if they have faults.
    """
    of, task = (getattr(draft.sound, name, None) for name in ("of", "task"))
    if (of is None) == (task is None):
        return replace(draft, kind=None, params=None, sound=None)
    if of is not None:
        resolved = _of_stage(draft, of, drafts, base_dir, faults)
    else:
        resolved = _of_kind(draft, task or "", kinds, base_dir, faults)
    return (
        replace(resolved, files=outside_files(resolved, base_dir, faults))
        if resolved.kind
        else resolved
    )


def _of_kind(
    draft: Draft, task: str, kinds: Mapping[str, Kind], base_dir: Path | None, faults: Faults
) -> Draft:
    measurable = [name for name, kind in kinds.items() if kind.evaluation]
    if task not in measurable:
        faults.add(
            draft.mark_of("task"),
            dotted(draft.path, "task"),
            _not_measured(task, kinds, measurable),
        )
        return replace(draft, kind=None, params=None, sound=None)
    kind, measuring = kinds[task], evaluation_of(kinds[task])
    _, node = draft.node.split({*Common.model_fields, *FIELDS})
    own_fields = _without_inputs(draft, node, kind, faults)
    known = (*Common.model_fields, *FIELDS)
    params = check(measuring.params, own_fields, draft.path, faults, also_known=known)
    return with_params(replace(draft, kind=measuring), params, base_dir, faults)


def _not_measured(task: str, kinds: Mapping[str, Kind], measurable: Collection[str]) -> str:
    if task in (*kinds, TUNE.name, EVALUATE.name):
        return f"{task} produces no model to measure; known: {', '.join(measurable)}"
    return f"unknown kind {shown(task)}{suggestion(task, measurable)}"


def _without_inputs(draft: Draft, node: Node, kind: Kind, faults: Faults) -> Node:
    """Return `node` without the inputs of `kind`, which only training reads.

    The checkpoint fills in for a required input. Nothing reads that value, and no Key contains it.
    """
    given, rest = node.split(kind.inputs)
    for name, member in given.members.items():
        faults.add(member.key_at, dotted(draft.path, name), INPUTS_ARE)
    stand_in = draft.node.members.get(CHECKPOINT) or marked(CHECKPOINT, draft.node.at)
    required = {
        name: stand_in for name in kind.inputs if kind.params.model_fields[name].is_required()
    }
    return replace(rest, value={**rest.members, **required})


def _of_stage(
    draft: Draft, of: str, drafts: Mapping[str, Draft], base_dir: Path | None, faults: Faults
) -> Draft:
    _refuse_params(draft, faults)
    measured = _find_measured(draft, of, drafts, faults)
    if measured is None or measured.kind is None or measured.sound is None:
        return replace(draft, kind=None, params=None, sound=None)
    kind = evaluation_of(measured.kind)
    sound = _as_params_of(kind, measured.sound)
    num_faults = len(faults)
    written = getattr(draft.sound, OVERRIDES, {})
    overrides = absolute_overrides(draft, written, sound, base_dir, faults, inputs_are=INPUTS_ARE)
    overridden(draft, sound, faults)
    _check_searched(draft, measured, drafts, faults)
    is_whole = (
        draft.params is not None and measured.params is not None and len(faults) == num_faults
    )
    params = sound.overlay(overrides) if is_whole else None
    return replace(
        draft, node=_linked(draft, measured), kind=kind, params=params, sound=params or sound
    )


def _refuse_params(draft: Draft, faults: Faults) -> None:
    for name, node in draft.node.members.items():
        if name == SEARCHED:
            faults.add(
                node.key_at,
                dotted(draft.path, name),
                "not allowed with `of`: the measured stage's `params_from` applies; remove it",
            )
        elif name not in Common.model_fields and name not in FIELDS:
            message = (
                "is not a field of an evaluation; with `of`, change params of the measured stage "
                f"in `{OVERRIDES}`"
            )
            faults.add(node.key_at, dotted(draft.path, name), message)


def _find_measured(
    draft: Draft, of: str, drafts: Mapping[str, Draft], faults: Faults
) -> Draft | None:
    """Return the stage that `of` names if it produces a model; otherwise add a fault."""
    measured = drafts.get(of)
    if measured is None:
        known = [name for name, other in drafts.items() if other.kind and other.kind.evaluation]
        message = unknown_stage(of, known)
    elif measured.kind is None or measured.kind.evaluation is not None:
        return measured
    else:
        what = (
            "an evaluation itself" if measured.kind is EVALUATE else f"of kind {measured.kind.name}"
        )
        message = f"{of} is {what} and produces no model to measure; name a stage that trains one"
    faults.add(draft.mark_of("of"), dotted(draft.path, "of"), message)
    return None


def _as_params_of(kind: Kind, measured: Params) -> Params:
    """The params of the measured stage, plus defaults for the fields that only its evaluation
    has."""
    return sound_part(
        kind.params, measured.model_dump(mode="json"), lacking=missing_fields(measured)
    )


def _check_searched(
    draft: Draft, measured: Draft, drafts: Mapping[str, Draft], faults: Faults
) -> None:
    """Add faults for overrides of params that the measured stage takes from a search.

    The searched values would replace the overrides.
    """
    searched_from = getattr(measured.sound_common, SEARCHED, None)
    search = drafts.get((searched_from or "").rpartition(".")[0])
    space = search.node.members_of("space") if search and search.kind is TUNE else ()
    for name in getattr(draft.sound, OVERRIDES, {}):
        if any(
            f"{name}.".startswith(f"{path}.") or f"{path}.".startswith(f"{name}.") for path in space
        ):
            at = draft.node.nearest([OVERRIDES, name]).key_at
            message = f"cannot be overridden: {measured.name} takes this param from {searched_from}"
            faults.add(at, dotted(dotted(draft.path, OVERRIDES), name), message)


def _linked(draft: Draft, measured: Draft) -> Node:
    """Return the node of the draft with the implied fields written out: `checkpoint` and
    `params_from` of the measured stage."""
    node = draft.node
    if getattr(draft.sound, CHECKPOINT, None) is None and CHECKPOINT not in node.members:
        implied = marked(str(Ref(measured.name, CHECKPOINT)), draft.mark_of("of"))
        node = put(node, [CHECKPOINT], implied, may_make=False)
    searched = measured.node.members.get(SEARCHED)
    return put(node, [SEARCHED], searched, may_make=False) if searched else node
