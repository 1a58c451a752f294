"""Turn the tree of a job file into a Job: its own fields, its stages, then the references between
stages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue

from orchestrator.contract import Kind, Misfit, Params
from orchestrator.spec.faults import Faults, Mark, dotted, shown, suggestion
from orchestrator.spec.job import Job, Notify, Seed, Stage, StoreOptions, usable_counts
from orchestrator.spec.kinds.evaluate import EVALUATE
from orchestrator.spec.kinds.tune import TUNE, TuneParams
from orchestrator.spec.locations import store_uri
from orchestrator.spec.resolve.draft import Common, Draft, draft_stage
from orchestrator.spec.resolve.evaluations import resolve_evaluation
from orchestrator.spec.resolve.links import Links, check_cycles, link_stages
from orchestrator.spec.resolve.matrix import WrittenStage, expand_stages
from orchestrator.spec.resolve.searches import (
    check_consumer,
    find_template,
    resolve_search,
    with_metric_of,
    with_workers_of,
)
from orchestrator.spec.validate import add_misfit, known, missing_fields, validate
from orchestrator.spec.yaml.node import Node, plain


def _folder_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise ValueError(
            "must start with a letter or digit and have at most 100 letters, digits, '.', '_' or "
            f"'-', not {shown(name)}"
        )
    return name


def _fields_of_notify(value: object) -> object:
    """Refuse a value that is not a mapping without showing it: it may be the URL, a secret."""
    if value is not None and not isinstance(value, Mapping):
        raise ValueError(
            "must be a mapping such as {url_env: SLACK_WEBHOOK}, which names the environment "
            "variable with the URL"
        )
    return value


class JobFields(Params):
    """The fields of a job file."""

    name: Annotated[str, AfterValidator(_folder_name)]
    """The job's name in the store and in the report."""
    store: str | None = None
    """Where artifacts are stored: a folder, `file:///...` or `s3://BUCKET/PREFIX`. `--store` takes
    precedence."""
    seed: Seed = 0
    """The seed of all stages without their own."""
    notify: Annotated[Notify | None, BeforeValidator(_fields_of_notify)] = None
    """Messages to Slack, Mattermost or Teams about a run. Null sends none."""
    store_options: StoreOptions | None = None
    """How a store in S3 keeps what is written. Null: as the bucket's own settings say."""
    stages: Annotated[dict[str, JsonValue], Field(min_length=1)]
    """The stages: the fields of each stage, by its name."""


def resolve_job(
    tree: Node,
    *,
    kinds: Mapping[str, Kind],
    published: Mapping[str, str],
    store: str | None,
    base_dir: Path | None,
    faults: Faults,
) -> Job | None:
    """Return the job, or add faults and return None.

    `store`, from the command line, takes precedence over the file's. `published` maps the id of
    each published row to its kind.
    """
    if not isinstance(tree.value, Mapping):
        faults.add(
            tree.at,
            "",
            f"must be a mapping with `name`, `store` and `stages`, not {shown(plain(tree))}",
        )
        return None
    fields = validate(JobFields, tree, "", faults)
    folder = _store(tree, store, base_dir, faults)
    if fields is not None and fields.store_options is not None and folder is not None:
        _check_options(tree, folder, faults)
    written = expand_stages(tree.members_of("stages"), faults)
    stages = _resolve_stages(
        written, kinds=kinds, published=published, base_dir=base_dir, faults=faults
    )
    if fields is None or folder is None or len(faults):
        return None
    return Job(
        fields.name,
        folder,
        fields.seed,
        {name: _stage(draft, links, fields.seed) for name, (draft, links) in stages.items()},
        fields.notify,
        fields.store_options,
    )


def _check_options(tree: Node, folder: str, faults: Faults) -> None:
    """Add a fault unless the store is in S3: a user who asks for encryption must get it."""
    if not folder.startswith("s3://"):
        faults.add(
            tree.members["store_options"].key_at,
            "store_options",
            f"has no effect on the folder {shown(folder)}; use a store s3://BUCKET/PREFIX, or "
            "remove it (--set store_options=null)",
        )


def _resolve_stages(
    written: Mapping[str, WrittenStage],
    *,
    kinds: Mapping[str, Kind],
    published: Mapping[str, str],
    base_dir: Path | None,
    faults: Faults,
) -> dict[str, tuple[Draft, Links]]:
    """Return each stage with its links, as far as they have no faults."""
    known_kinds = {**kinds, TUNE.name: TUNE, EVALUATE.name: EVALUATE}
    outer, faults = faults, Faults()
    drafts = {
        name: draft_stage(name, stage, known_kinds, base_dir, faults)
        for name, stage in written.items()
    }
    drafts, templates = _with_searches(drafts, base_dir, faults)
    drafts = _with_evaluations(drafts, kinds, base_dir, faults)
    links = link_stages(drafts, templates, faults)
    _check_searched_params(drafts, links, faults)
    check_cycles(drafts, links, faults)
    _check_expectations(drafts, faults)
    _check_published(drafts, published, faults)
    _check_workers(drafts, faults)
    _check_runnable(drafts, faults)
    outer.extend_elsewhere(faults)  # faults of a matrix are at the positions of its fields
    return {name: (draft, links[name]) for name, draft in drafts.items()}


def _store(tree: Node, given: str | None, base_dir: Path | None, faults: Faults) -> str | None:
    if given is not None:
        return _store_uri(given, Mark("--store"), "", base_dir, faults)
    written = tree.members.get("store")
    if written is not None and isinstance(written.value, str):
        return _store_uri(written.value, written.at, "store", base_dir, faults)
    if written is None or written.value is None:
        faults.add(
            written.key_at if written else tree.at,
            "store",
            "is required: set it in the file or with --store",
        )
    return None  # a value that is not a string has its fault from JobFields


def _store_uri(
    text: str, mark: Mark, path: str, base_dir: Path | None, faults: Faults
) -> str | None:
    try:
        return store_uri(text, base_dir)
    except ValueError as err:
        faults.add(mark, path, str(err))
    return None


def _with_searches(
    drafts: Mapping[str, Draft], base_dir: Path | None, faults: Faults
) -> tuple[dict[str, Draft], dict[str, Draft]]:
    """Resolve searches against their templates. Returns all drafts, and the template of each search
    by the search's name."""
    resolved, templates = dict(drafts), {}
    for name, draft in drafts.items():
        if draft.kind is not TUNE:
            continue
        template = find_template(draft, drafts, faults)
        params = resolve_search(draft, template, base_dir, faults) if template else None
        common = _common_of_trials(draft, template)
        if template is not None and params is not None and common is not None:
            common = with_workers_of(template, params, common)
        sound = with_metric_of(template, draft.sound)
        resolved[name] = replace(
            draft,
            params=params,
            common=common,
            sound=params or sound,
            sound_common=common or draft.sound_common,
        )
        if template is not None:
            templates[name] = template
    return resolved, templates


def _common_of_trials(search: Draft, template: Draft | None) -> Common | None:
    """The search's common fields. Without `resources` of its own, each trial uses the
    template's."""
    if (
        search.common is None
        or template is None
        or template.common is None
        or "resources" in search.node.members
    ):
        return search.common
    return search.common.model_copy(update={"resources": template.common.resources})


def _with_evaluations(
    drafts: Mapping[str, Draft], kinds: Mapping[str, Kind], base_dir: Path | None, faults: Faults
) -> dict[str, Draft]:
    return {
        name: resolve_evaluation(draft, drafts, kinds, base_dir, faults)
        if draft.kind is EVALUATE
        else draft
        for name, draft in drafts.items()
    }


def _check_searched_params(
    drafts: Mapping[str, Draft], links: Mapping[str, Links], faults: Faults
) -> None:
    for name, link in links.items():
        if link.params_from is not None:
            check_consumer(drafts[name], drafts[link.params_from.stage], faults)


def _check_expectations(drafts: Mapping[str, Draft], faults: Faults) -> None:
    for draft in drafts.values():
        metrics = draft.metrics
        if metrics is None:
            continue
        for name, node in draft.node.members_of("expect").items():
            if name not in metrics:
                path = dotted(dotted(draft.path, "expect"), name)
                faults.add(node.key_at, path, f"unknown metric{suggestion(name, metrics)}")


def _check_published(
    drafts: Mapping[str, Draft], published: Mapping[str, str], faults: Faults
) -> None:
    for draft in drafts.values():
        written = draft.node.members.get("published")
        if draft.kind is None or written is None or not isinstance(written.value, str):
            continue
        row, path, measured = written.value, dotted(draft.path, "published"), draft.kind.evaluates
        kind, is_of = (
            (measured.name, "measures kind") if measured else (draft.kind.name, "is of kind")
        )
        if row not in published:
            fitting = [known for known, row_kind in published.items() if row_kind == kind]
            faults.add(
                written.at, path, f"unknown published row {shown(row)}{suggestion(row, fitting)}"
            )
        elif published[row] != kind:
            message = f"{row} is of kind {published[row]}, but this stage {is_of} {kind}"
            faults.add(written.at, path, message)


def _check_workers(drafts: Mapping[str, Draft], faults: Faults) -> None:
    for draft in drafts.values():
        if _known_counts(draft) == ():
            assert draft.sound_common is not None
            steps = ("resources", "workers")
            workers = shown(draft.sound_common.resources.workers)
            message = (
                f"no number of workers in {workers} fits the params of the stage, such as "
                "batch_size; change this range, or those params"
            )
            faults.add(
                draft.node.nearest(steps).at,
                dotted(dotted(draft.path, steps[0]), steps[1]),
                message,
            )


def _known_counts(draft: Draft) -> tuple[int, ...] | None:
    """The numbers of workers that fit the stage. None if they depend on a field that has a
    fault."""
    kind, common, sound = draft.kind, draft.sound_common, draft.sound
    if kind is None or common is None or sound is None or "resources" in missing_fields(common):
        return None
    if isinstance(sound, TuneParams) and (draft.params is None or draft.common is None):
        return None  # with_workers_of() did not replace its range by one number
    return known(sound, lambda: usable_counts(kind, sound, common.resources))


def _check_runnable(drafts: Mapping[str, Draft], faults: Faults) -> None:
    for draft in drafts.values():
        for misfit in _known_misfits(draft):
            add_misfit(misfit, draft.node, draft.path, faults)


def _known_misfits(draft: Draft) -> tuple[Misfit, ...]:
    kind, sound = draft.kind, draft.sound
    if kind is None or sound is None:
        return ()
    return known(sound, lambda: tuple(kind.misfits(sound))) or ()


def _stage(draft: Draft, links: Links, default_seed: int) -> Stage:
    common = draft.common
    assert common is not None
    assert draft.kind is not None
    return Stage(
        name=draft.name,
        kind=draft.kind,
        params=draft.params,
        seed=default_seed if common.seed is None else common.seed,
        resources=common.resources,
        expect=common.expect,
        params_from=links.params_from,
        inputs=links.inputs,
        files=links.files,
        data_fingerprint=common.data_fingerprint,
        published=common.published,
    )
