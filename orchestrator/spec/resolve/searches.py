"""Resolve searches: check that all samples fit the template and the stages that use the best
params."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from orchestrator.contract import Params, Role
from orchestrator.spec.faults import Faults, dotted, shown, suggestion
from orchestrator.spec.job import usable_counts
from orchestrator.spec.kinds.evaluate import EVALUATE
from orchestrator.spec.kinds.space import Distribution
from orchestrator.spec.kinds.tune import TUNE, TuneParams
from orchestrator.spec.resolve.draft import Common, Draft
from orchestrator.spec.resolve.overlay import OVERRIDES, absolute_overrides, overlaid, overridden
from orchestrator.spec.resolve.refs import unknown_stage
from orchestrator.spec.validate import known, missing_fields, validate
from orchestrator.spec.yaml.node import marked

INPUTS_ARE = "the trials of a search use the inputs of its template"


def find_template(search: Draft, drafts: Mapping[str, Draft], faults: Faults) -> Draft | None:
    """Return the stage that `of` names if it can be searched; otherwise add a fault."""
    of = search.text_of("of")
    if of is None:
        return None
    template = drafts.get(of)
    if template is None:
        others = [name for name, draft in drafts.items() if draft.kind not in (TUNE, EVALUATE)]
        faults.add(search.mark_of("of"), dotted(search.path, "of"), unknown_stage(of, others))
    elif template.kind in (TUNE, EVALUATE):
        what = "a search itself" if template.kind is TUNE else "an evaluation"
        faults.add(
            search.mark_of("of"),
            dotted(search.path, "of"),
            f"{of} is {what}; name a stage that trains",
        )
        return None
    return template


def resolve_search(
    search: Draft, template: Draft, base_dir: Path | None, faults: Faults
) -> TuneParams | None:
    """Return the search's params with its metric and with absolute data folders.

    Returns None if the search or its template has faults. Everything is still checked as far as
    possible, so that all faults are reported at once.
    """
    own = search.sound
    if not isinstance(own, TuneParams) or template.sound is None:
        return None
    num_faults = len(faults)
    written = getattr(own, OVERRIDES, {})
    overrides = absolute_overrides(
        search, written, template.sound, base_dir, faults, inputs_are=INPUTS_ARE
    )
    base = overridden(search, template.sound, faults)
    trained = replace(template, sound=base)
    metric = _metric(search, own, trained, faults)
    _check_space(search, _sound_space(search), trained, metric, faults)
    if search.params is not None:
        _check_initial(search, own, faults)
    if len(faults) > num_faults or search.params is None or template.params is None:
        return None
    return own.model_copy(update={"metric": metric, "overrides": overrides})


def with_metric_of(template: Draft | None, params: Params | None) -> Params | None:
    """Return the sound part of a search's params with its metric filled in. If the metric cannot be
    determined, the field is missing."""
    metrics = template.metrics if template else None
    if not isinstance(params, TuneParams) or "metric" in missing_fields(params):
        return params
    if metrics and params.metric in (None, *metrics):
        return params.model_copy(update={"metric": params.metric or metrics[0]})
    without = params.model_copy()
    del vars(without)["metric"]
    return without


def _sound_space(search: Draft) -> dict[str, Distribution]:
    """The distributions of the space that have no faults."""
    written = search.node.members_of("space").items()
    mappings = {name: node for name, node in written if isinstance(node.value, Mapping)}
    checked = {name: validate(Distribution, node, "", Faults()) for name, node in mappings.items()}
    return {
        name: distribution for name, distribution in checked.items() if distribution is not None
    }


def with_workers_of(template: Draft, params: TuneParams, common: Common) -> Common:
    """Replace a range of workers by the smallest number that fits the trials' params, so that as
    many trials as possible run at a time."""
    if (
        template.kind is None
        or template.params is None
        or isinstance(common.resources.workers, int)
    ):
        return common
    counts = usable_counts(
        template.kind, template.params.overlay(params.overrides), common.resources
    )
    changes = (
        {"resources": common.resources.model_copy(update={"workers": counts[0]})} if counts else {}
    )
    return common.model_copy(update=changes)


def check_consumer(consumer: Draft, search: Draft, faults: Faults) -> None:
    """Add faults at `params_from` for values that `search` samples but `consumer` cannot accept."""
    if consumer.sound is None or search.kind is not TUNE or search.text_of("of") == consumer.name:
        return  # the template of the search was checked with it
    if consumer.kind is not None and consumer.kind.evaluates and search.params is None:
        return  # the search and the measured stage already report the faults of the space
    at = consumer.mark_of("params_from")
    for name, distribution in _sound_space(search).items():
        inside = Faults()
        for value in distribution.extremes:
            overlaid(consumer.sound, {name: marked(value, at)}, at, "", inside)
        for fault in inside:
            message = f"{search.name} searches {fault.path}: {fault.message}"
            faults.add(at, dotted(consumer.path, "params_from"), message)


def _metric(search: Draft, params: TuneParams, template: Draft, faults: Faults) -> str | None:
    """Return the metric to optimise. If the template does not report it, add a fault and return
    None."""
    reported = template.metrics
    if reported is None or "metric" in missing_fields(params):
        return None  # it depends on a field that has a fault
    if params.metric in reported:
        _check_direction(search, params, template, faults)
        return params.metric
    if params.metric is not None:
        message = f"unknown metric {shown(params.metric)}{suggestion(params.metric, reported)}"
        faults.add(search.mark_of("metric"), dotted(search.path, "metric"), message)
    elif not reported:
        faults.add(
            search.mark_of("of"),
            dotted(search.path, "of"),
            f"{template.name} reports no metric to optimise",
        )
    else:
        return reported[0]
    return None


def _check_direction(search: Draft, params: TuneParams, template: Draft, faults: Faults) -> None:
    less_is_better = template.kind.less_is_better if template.kind else frozenset()
    if params.metric in less_is_better and known(params, lambda: params.mode) == "max":
        message = f"lower {params.metric} is better; set `mode: min`"
        faults.add(search.mark_of("metric"), dotted(search.path, "metric"), message)


def _check_space(
    search: Draft,
    space: Mapping[str, Distribution],
    template: Draft,
    metric: str | None,
    faults: Faults,
) -> None:
    """Add faults for values that the template does not accept, or with which it would not report
    `metric`."""
    assert template.sound is not None
    path = dotted(search.path, "space")
    fixed = {*template.sound.fields_with(Role.INPUT), *template.sound.fields_with(Role.DATA)}
    for name, distribution in space.items():
        written = search.node.nearest(["space", name])
        if name in fixed:
            faults.add(
                written.key_at,
                dotted(path, name),
                "is data or an input, which cannot be searched",
            )
            continue
        for index, value in enumerate(distribution.extremes):
            at = written.nearest([distribution.name, index]).at
            num_faults = len(faults)
            sampled = overlaid(
                template.sound, {name: marked(value, at, written.key_at)}, at, path, faults
            )
            reported = (
                replace(template, sound=sampled).metrics if len(faults) == num_faults else None
            )
            if metric and reported is not None and metric not in reported:
                message = f"with {shown(value)}, no trial reports the metric {metric}"
                faults.add(at, dotted(path, name), message)


def _check_initial(search: Draft, params: TuneParams, faults: Faults) -> None:
    """Add faults for points in `initial` that are not points of the space."""
    for index, point in enumerate(params.initial):
        written = search.node.nearest(["initial", index])
        path = dotted(dotted(search.path, "initial"), index)
        if index >= params.size:
            message = f"exceeds num_trials {params.size}; remove it or increase num_trials"
            faults.add(written.key_at, path, message)
        for name in params.space.keys() - point.keys():
            faults.add(written.key_at, path, f"has no value for {name}, which is in the space")
        for name, value in point.items():
            distribution, at = params.space.get(name), written.nearest([name])
            if distribution is None:
                faults.add(
                    at.key_at,
                    dotted(path, name),
                    f"is not in the space{suggestion(name, params.space)}",
                )
            elif not distribution.holds(value):
                drawn = (
                    f"{distribution.name} {shown(list(getattr(distribution, distribution.name)))}"
                )
                faults.add(at.at, dotted(path, name), f"{shown(value)} is outside {drawn}")
