"""Manifests -> where each stage's numbers come from: code, data, params, inputs, files. Pure."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import JsonValue

from orchestrator.artifact import Deviation, Manifest

NOT_RECORDED = "code not recorded"
"""The text for manifests that are older than the record of the code."""


@dataclass(frozen=True)
class Param:
    """A param that counted, and what the reference recipe has instead, if it differs."""

    name: str
    value: str
    reference: str | None


@dataclass(frozen=True)
class Input:
    """What a stage read: an output of another stage, or a file from outside the job."""

    field: str
    text: str
    sha256: str
    """The other stage's Key, or the file's digest."""
    stage: str | None
    """The stage of the report that has this Key."""


@dataclass(frozen=True)
class Lineage:
    """Where the numbers of one stage come from."""

    stage: str
    key: str
    code: str
    data: str
    """Fingerprint of the data."""
    files: tuple[tuple[str, str], ...]
    """Each published file as `output/path`, and its sha256."""
    params: tuple[Param, ...]
    inputs: tuple[Input, ...]
    facts: tuple[tuple[str, str], ...]
    """When and where it ran."""
    command: str
    """What makes it again in an empty store."""


def make_lineage(manifest: Manifest, *, stage_of_key: Mapping[str, str], command: str) -> Lineage:
    """The lineage of a manifest; `command` runs the job, `stage_of_key` are the report's stages."""
    files = [
        (f"{output}/{file.path}", file.sha256)
        for output, artifact in manifest.artifacts.items()
        for file in artifact.files
    ]
    return Lineage(
        stage=manifest.stage,
        key=manifest.key,
        code=code_text(manifest.provenance.get("code")),
        data=str(manifest.recipe.get("data") or "none"),
        files=tuple(files),
        params=_params(manifest.params, manifest.recipe_audit or {}),
        inputs=_inputs(manifest.recipe.get("inputs"), stage_of_key),
        facts=tuple(_facts(manifest.provenance)),
        command=f"{command} --only {shlex.quote(manifest.stage)}",
    )


def code_text(code: JsonValue) -> str:
    """The version of the code that ran, in words."""
    if not isinstance(code, dict):
        return NOT_RECORDED
    source = f"source files sha256 {str(code.get('sha256'))[:12]}"
    if code.get("commit") is None:
        return f"{source}, not in a git checkout"
    state = "with local changes" if code.get("is_dirty") else "clean"
    return f"commit {str(code['commit'])[:12]} ({state}), {source}"


def _params(params: Mapping[str, JsonValue], audit: Mapping[str, Deviation]) -> tuple[Param, ...]:
    return tuple(
        Param(
            name,
            json.dumps(value, ensure_ascii=False),
            json.dumps(audit[name].reference, ensure_ascii=False) if name in audit else None,
        )
        for name, value in params.items()
    )


def _inputs(inputs: JsonValue, stage_of_key: Mapping[str, str]) -> tuple[Input, ...]:
    found: list[Input] = []
    for field, read in (inputs if isinstance(inputs, dict) else {}).items():
        if not isinstance(read, dict):
            continue
        if "key" in read:
            key = str(read["key"])
            stage = stage_of_key.get(key)
            found.append(Input(field, f"{stage or key[:8]}.{read['output']}", key, stage))
        else:
            found.append(Input(field, "a file from outside the job", str(read["sha256"]), None))
    return tuple(found)


def _facts(provenance: Mapping[str, JsonValue]) -> list[tuple[str, str]]:
    facts = [("run", provenance.get("run_id")), ("machine", provenance.get("host"))]
    facts += [(name, provenance.get(name)) for name in ("device", "workers", "python")]
    runs = provenance.get("runs")
    if isinstance(runs, list) and len(runs) > 1:
        facts.append(("all runs", ", ".join(map(str, runs))))
    finished = provenance.get("finished_at_s")
    if isinstance(finished, int | float):
        facts.append(("finished", time_text(finished)))
    packages = provenance.get("packages")
    if isinstance(packages, dict):
        facts.append(("packages", ", ".join(f"{name} {value}" for name, value in packages.items())))
    return [(name, str(value)) for name, value in facts if value is not None]


def time_text(seconds: float) -> str:
    """A time in UTC, to the minute."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
