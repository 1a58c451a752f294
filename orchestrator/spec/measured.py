"""An evaluation against what it measures: a stage, with `of`, or models of a kind, with `task`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from orchestrator.artifact import Ref, canonical_json
from orchestrator.contract import CHECKPOINT, Kind, Params
from orchestrator.spec.draft import Common, Draft, outside_files, with_absolute_data
from orchestrator.spec.evaluate import EVALUATE, EvaluateParams, evaluation_of
from orchestrator.spec.faults import Faults, dotted, shown, suggestion
from orchestrator.spec.overlay import OVERRIDES, absolute_overrides, overridden
from orchestrator.spec.refs import unknown_stage
from orchestrator.spec.tree import Node, marked, put
from orchestrator.spec.tune import TUNE, TuneParams
from orchestrator.spec.validate import validate

FIELDS = tuple(EvaluateParams.model_fields)
SEARCHED = "params_from"
INPUTS_ARE = f"an evaluation reads its `{CHECKPOINT}` alone"


def resolve_evaluation(
    draft: Draft, drafts: Mapping[str, Draft], kinds: Mapping[str, Kind], base_dir: Path | None, faults: Faults
) -> Draft:
    """The draft of an evaluation with the kind and the params of what it measures; without those that have faults."""
    own = draft.params
    if not isinstance(own, EvaluateParams):
        return replace(draft, kind=None)
    if own.of is not None:
        resolved = _of_stage(draft, own.of, own, drafts, base_dir, faults)
    else:
        resolved = _of_kind(draft, own, kinds, base_dir, faults)
    return replace(resolved, files=outside_files(resolved, base_dir, faults)) if resolved.kind else resolved


def _of_kind(
    draft: Draft, own: EvaluateParams, kinds: Mapping[str, Kind], base_dir: Path | None, faults: Faults
) -> Draft:
    task, measurable = own.task or "", [name for name, kind in kinds.items() if kind.evaluation]
    if task not in measurable:
        faults.add(draft.mark_of("task"), dotted(draft.path, "task"), _not_measured(task, kinds, measurable))
        return replace(draft, kind=None, params=None)
    kind, measuring = kinds[task], evaluation_of(kinds[task])
    _, node = draft.node.split({*Common.model_fields, *FIELDS})
    own_fields = _without_inputs(draft, node, kind, faults)
    known = (*Common.model_fields, *FIELDS)
    params = validate(measuring.params, own_fields, draft.path, faults, also_known=known)
    if params is not None:
        params = with_absolute_data(params, draft.node, draft.path, base_dir, faults)
    return replace(draft, kind=measuring, params=params)


def _not_measured(task: str, kinds: Mapping[str, Kind], measurable: Collection[str]) -> str:
    if task in (*kinds, TUNE.name, EVALUATE.name):
        return f"{task} leaves no model to measure; known: {', '.join(measurable)}"
    return f"unknown kind {shown(task)}{suggestion(task, measurable)}"


def _without_inputs(draft: Draft, node: Node, kind: Kind, faults: Faults) -> Node:
    """`node` without the inputs of `kind`, which training starts from; where one is required, the checkpoint stands
    in for it: nothing reads it, no Key holds it.
    """
    given, rest = node.split(kind.inputs)
    for name, member in given.members.items():
        faults.add(member.key_at, dotted(draft.path, name), INPUTS_ARE)
    checkpoint = draft.node.members[CHECKPOINT]
    required = {name: checkpoint for name in kind.inputs if kind.params.model_fields[name].is_required()}
    return replace(rest, value={**rest.members, **required})


def _of_stage(
    draft: Draft, of: str, own: EvaluateParams, drafts: Mapping[str, Draft], base_dir: Path | None, faults: Faults
) -> Draft:
    _refuse_params(draft, faults)
    measured = _find_measured(draft, of, drafts, faults)
    if measured is None or measured.kind is None:
        return replace(draft, kind=None, params=None)
    kind = evaluation_of(measured.kind)
    params = _params(draft, own, _as_params_of(kind, measured.params), base_dir, faults)
    _check_searched(draft, own, measured, drafts, faults)
    return replace(draft, node=_linked(draft, own, measured), kind=kind, params=params)


def _refuse_params(draft: Draft, faults: Faults) -> None:
    for name, node in draft.node.members.items():
        if name == SEARCHED:
            faults.add(node.key_at, dotted(draft.path, name), "comes with `of`: that stage's own is taken")
        elif name not in Common.model_fields and name not in FIELDS:
            message = f"is no field of an evaluation; with `of`, params other than that stage's go into `{OVERRIDES}`"
            faults.add(node.key_at, dotted(draft.path, name), message)


def _find_measured(draft: Draft, of: str, drafts: Mapping[str, Draft], faults: Faults) -> Draft | None:
    """The stage that `of` names, if it leaves a model to measure."""
    measured = drafts.get(of)
    if measured is None:
        known = [name for name, other in drafts.items() if other.kind and other.kind.evaluation]
        message = unknown_stage(of, known)
    elif measured.kind is None or measured.kind.evaluation is not None:
        return measured
    else:
        what = "an evaluation itself" if measured.kind is EVALUATE else f"of kind {measured.kind.name}"
        message = f"{of} is {what} and leaves no model to measure; name a stage that trains one"
    faults.add(draft.mark_of("of"), dotted(draft.path, "of"), message)
    return None


def _as_params_of(kind: Kind, measured: Params | None) -> Params | None:
    """The params of the measured stage, with the defaults of those fields that only its evaluation has."""
    if measured is None:
        return None
    return kind.params.model_validate_json(canonical_json(measured.model_dump(mode="json")))


def _params(
    draft: Draft, own: EvaluateParams, params: Params | None, base_dir: Path | None, faults: Faults
) -> Params | None:
    """`params` with the overrides put in, if all fits."""
    if params is None:
        return None
    num_faults = len(faults)
    overrides = absolute_overrides(draft, own.overrides, params, base_dir, faults, inputs_are=INPUTS_ARE)
    overridden(draft, params, faults)
    return params.overlay(overrides) if len(faults) == num_faults else None


def _check_searched(
    draft: Draft, own: EvaluateParams, measured: Draft, drafts: Mapping[str, Draft], faults: Faults
) -> None:
    """Faults for overrides of params that the measured stage takes from a search, whose values would beat them."""
    searched_from = measured.common.params_from if measured.common else None
    search = drafts.get((searched_from or "").rpartition(".")[0])
    space = search.params.space if search and isinstance(search.params, TuneParams) else ()
    for name in own.overrides:
        if any(f"{name}.".startswith(f"{path}.") or f"{path}.".startswith(f"{name}.") for path in space):
            at = draft.node.nearest([OVERRIDES, name]).key_at
            message = f"{measured.name} takes it from {searched_from}; it cannot be overridden"
            faults.add(at, dotted(dotted(draft.path, OVERRIDES), name), message)


def _linked(draft: Draft, own: EvaluateParams, measured: Draft) -> Node:
    """The node of the draft with what is implied written out: the checkpoint of the measured stage, and its search."""
    node = draft.node
    if own.checkpoint is None:
        implied = marked(str(Ref(measured.name, CHECKPOINT)), draft.mark_of("of"))
        node = put(node, [CHECKPOINT], implied, may_make=False)
    searched = measured.node.members.get(SEARCHED)
    return put(node, [SEARCHED], searched, may_make=False) if searched else node
