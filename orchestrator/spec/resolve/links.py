"""The references between stages: inputs and searched params. Also finds cycles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.artifact import Ref
from orchestrator.contract import CHECKPOINT, Kind
from orchestrator.spec.faults import Faults, dotted
from orchestrator.spec.kinds.tune import BEST_CHECKPOINT, BEST_PARAMS
from orchestrator.spec.resolve.draft import Draft
from orchestrator.spec.resolve.refs import check_output, is_outside, parse_ref


@dataclass(frozen=True)
class Links:
    """The references of one stage to others, and the field that holds each."""

    inputs: Mapping[str, Ref]
    files: Mapping[str, str]
    """Inputs that are a file from outside the job instead of an output of a stage."""
    params_from: Ref | None
    fields: Mapping[str, str]
    """The field that refers to each needed stage, by that stage's name."""


def link_stages(
    drafts: Mapping[str, Draft], templates: Mapping[str, Draft], faults: Faults
) -> dict[str, Links]:
    """Return the links of every stage. A search has the inputs of its template, because its trials
    read them."""
    stages = _Stages(
        {name: draft.kind for name, draft in drafts.items()},
        {name: template.kind for name, template in templates.items()},
    )
    inputs = {name: _inputs(draft, stages, faults) for name, draft in drafts.items()}
    links = {}
    for name, draft in drafts.items():
        template = templates.get(name)
        refs = inputs[template.name] if template else inputs[name]
        params_from = _params_from(draft, stages, faults)
        fields = {ref.stage: "of" if template else field for field, ref in refs.items()}
        if params_from is not None:
            fields[params_from.stage] = "params_from"
        links[name] = Links(refs, (template or draft).files, params_from, fields)
    return links


def check_cycles(drafts: Mapping[str, Draft], links: Mapping[str, Links], faults: Faults) -> None:
    """Add a fault for each cycle, at the field of its first stage that points to the next."""
    for chain in find_cycles({name: list(link.fields) for name, link in links.items()}):
        draft = drafts[chain[0]]
        field = links[chain[0]].fields[chain[1]]
        faults.add(
            draft.mark_of(field),
            dotted(draft.path, field),
            f"a cycle of stages: {' -> '.join(chain)}",
        )


@dataclass(frozen=True)
class _Stages:
    """The stages that refs may name."""

    kinds: Mapping[str, Kind | None]
    searched: Mapping[str, Kind | None]
    """The kinds of the trials, by search."""

    def stands_for(self, ref: Ref) -> str | None:
        """The output that `ref` counts as: a best checkpoint counts as one of the searched kind."""
        trained = self.searched.get(ref.stage)
        if trained is None or ref.output != BEST_CHECKPOINT:
            return None
        return f"{trained.name}.{CHECKPOINT}"


def _inputs(draft: Draft, stages: _Stages, faults: Faults) -> dict[str, Ref]:
    if draft.kind is None:
        return {}
    texts = {field: draft.text_of(field) for field in draft.kind.inputs}
    accepted = draft.kind.inputs
    refs = {
        field: _ref(draft, field, text, accepted[field], stages, faults)
        for field, text in texts.items()
        if text is not None and not (field in draft.kind.from_outside and is_outside(text))
    }
    return {field: ref for field, ref in refs.items() if ref}


def _params_from(draft: Draft, stages: _Stages, faults: Faults) -> Ref | None:
    written = draft.node.members.get("params_from")
    if written is None or not isinstance(written.value, str):
        return None
    return _ref(draft, "params_from", written.value, BEST_PARAMS, stages, faults)


def _ref(
    draft: Draft,
    field: str,
    text: str,
    accepted: frozenset[str],
    stages: _Stages,
    faults: Faults,
) -> Ref | None:
    """Parse a reference and add a fault if it is wrong.

    Returns the ref if its stage exists, even if the output is wrong, so that cycles are found.
    """
    ref = None
    try:
        ref = parse_ref(text, stages.kinds)
        check_output(ref, stages.kinds[ref.stage], accepted, stands_for=stages.stands_for(ref))
    except ValueError as err:
        faults.add(draft.mark_of(field), dotted(draft.path, field), str(err))
    return ref


def find_cycles(needs: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, ...]]:
    """Yield each cycle as a chain of stages: each needs the next, the last equals the first."""
    done: set[str] = set()
    for start in needs:
        trail = {} if start in done else {start: iter(needs[start])}
        while trail:
            stage, left = next(reversed(trail.items()))
            need = next(left, None)
            if need is None:
                done.add(stage)
                del trail[stage]
            elif need in trail:
                names = list(trail)
                yield (*names[names.index(need) :], need)
            elif need not in done:
                trail[need] = iter(needs[need])
