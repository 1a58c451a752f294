"""Draft: a stage whose own fields are checked, but not yet its references to other stages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import Field

from orchestrator.artifact import Sha256
from orchestrator.contract import Kind, Params, Role
from orchestrator.spec.faults import Faults, Mark, dotted, shown, suggestion
from orchestrator.spec.job import ExpectationText, Resources, Seed
from orchestrator.spec.kinds.evaluate import EVALUATE
from orchestrator.spec.locations import data_location, outside_file
from orchestrator.spec.resolve.matrix import WrittenStage
from orchestrator.spec.resolve.refs import is_outside
from orchestrator.spec.validate import Checked, check, known
from orchestrator.spec.yaml.node import Node, plain

STAGE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,99}")


class Common(Params):
    """The fields that stages of every kind have."""

    kind: str
    """The kind of the stage, which selects the pipeline that runs it."""
    resources: Resources = Resources()
    """What the stage requests from the cluster."""
    expect: dict[str, ExpectationText] = Field(default_factory=dict)
    """The expected values of its metrics, such as `{top1: ">= 95"}`."""
    seed: Seed | None = None
    """The seed of the stage. By default, the job's."""
    params_from: str | None = None
    """A search's best params, `STAGE.best_params`, which override the stage's own."""
    data_fingerprint: Sha256 | None = None
    """The fingerprint of the data, as `plan --json` prints it on a machine that has them. With it,
    a machine without the data can plan. Workers check it."""
    published: str | None = None
    """The published row that the report compares the stage's metrics with, such as
    `imagenet1k/cat_small`."""


@dataclass(frozen=True)
class Draft:
    """A stage whose own fields are checked. Fields with faults are None."""

    name: str
    path: str
    """Path of the stage in the file. A cell has the path of its matrix."""
    node: Node
    kind: Kind | None
    common: Common | None
    params: Params | None
    sound_common: Common | None = None
    """The fields of `common` without faults. None if the stage is not a mapping."""
    sound: Params | None = None
    """The fields of `params` without faults. None if the kind has a fault."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Locations of files from outside the job that replace a ref, by field of role INPUT."""

    @property
    def metrics(self) -> tuple[str, ...] | None:
        """The metrics that the stage reports. None if they depend on a field that has a fault."""
        kind, sound = self.kind, self.sound
        return known(sound, lambda: kind.metrics(sound)) if kind and sound else None

    def text_of(self, field: str) -> str | None:
        """Return a field of the params as written, or its default. Other fields may have faults.

        Returns None if the value is not a string.
        """
        assert self.kind is not None
        written, known = self.node.members.get(field), self.kind.params.model_fields.get(field)
        value = written.value if written else known and known.default
        return value if isinstance(value, str) else None

    def mark_of(self, field: str) -> Mark:
        """Position of a field's value, or of the stage if it is not written."""
        return self.node.nearest([field]).at


def draft_stage(
    name: str,
    written: WrittenStage,
    kinds: Mapping[str, Kind],
    base_dir: Path | None,
    faults: Faults,
) -> Draft:
    node, path = written.node, dotted("stages", written.name_in_file)
    if not STAGE_NAME.fullmatch(written.name_in_file):
        faults.add(
            node.key_at,
            path,
            "a stage name must be a letter followed by up to 99 letters, digits, '_' or '-'",
        )
    if not isinstance(node.value, Mapping):
        faults.add(
            node.at, path, f"must be a mapping with `kind` and its params, not {shown(plain(node))}"
        )
        return Draft(name, path, node, None, None, None)
    common_node, params_node = node.split(Common.model_fields)
    common = check(Common, common_node, path, faults)
    kind = _kind(node, kinds, path, faults)
    draft = Draft(name, path, node, kind, common.whole, None, common.sound)
    if kind is None:
        return draft
    draft = with_params(draft, _params(kind, params_node, path, faults), base_dir, faults)
    return replace(draft, files=outside_files(draft, base_dir, faults))


def _kind(node: Node, kinds: Mapping[str, Kind], path: str, faults: Faults) -> Kind | None:
    written = node.members.get("kind")
    if written is None or not isinstance(written.value, str):
        return None
    if written.value not in kinds:
        message = f"unknown kind {shown(written.value)}{suggestion(written.value, kinds)}"
        faults.add(written.at, dotted(path, "kind"), message)
    return kinds.get(written.value)


def _params(kind: Kind, node: Node, path: str, faults: Faults) -> Checked[Params]:
    shared = Common.model_fields.keys() & kind.params.model_fields.keys()
    assert not shared, f"params of {kind.name} take names of common fields: {shared}"
    if kind is EVALUATE:  # its other fields depend on the measured kind and are checked later
        node, _ = node.split(EVALUATE.params.model_fields)
    return check(kind.params, node, path, faults, also_known=Common.model_fields)


def with_params(
    draft: Draft, params: Checked[Params], base_dir: Path | None, faults: Faults
) -> Draft:
    """Return the draft with `params`, with absolute data folders."""
    sound = with_absolute_data(params.sound, draft.node, draft.path, base_dir, faults)
    return replace(draft, params=sound if params.whole is not None else None, sound=sound)


def outside_files(draft: Draft, base_dir: Path | None, faults: Faults) -> dict[str, str]:
    """The files from outside the job that the stage names, in fields whose kind accepts files."""
    assert draft.kind is not None
    files = {}
    for name in draft.kind.from_outside:
        text = draft.text_of(name)
        if text is None or not is_outside(text):
            continue
        try:
            files[name] = outside_file(text, base_dir)
        except ValueError as err:
            faults.add(draft.mark_of(name), dotted(draft.path, name), str(err))
    return files


def with_absolute_data(
    params: Params, node: Node, path: str, base_dir: Path | None, faults: Faults
) -> Params:
    folders = {}
    for name in params.fields_with(Role.DATA):
        text = getattr(params, name, None)
        if text is None:
            continue
        try:
            folders[name] = data_location(text, base_dir)
        except ValueError as err:
            faults.add(node.nearest([name]).at, dotted(path, name), str(err))
    return params.model_copy(update=folders)
