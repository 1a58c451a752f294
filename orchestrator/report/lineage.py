"""Manifests -> where each stage's numbers come from: code, data, params, inputs, files. Pure."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import JsonValue

from orchestrator.artifact import CODE_PATCH, JOB_FILE, Deviation, Manifest
from orchestrator.numbers import hours_text

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
    """When and where it ran, and what it cost."""
    command: str
    """What makes it again in an empty store."""


def make_lineage(manifest: Manifest, *, stage_of_key: Mapping[str, str], command: str) -> Lineage:
    """The lineage of a manifest; `command` runs the job, `stage_of_key` are the report's stages."""
    files = [
        (f"{output}/{file.path}", file.sha256)
        for output, artifact in manifest.outputs.items()
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
        facts=(*_facts(manifest.provenance), *_records(manifest)),
        command=f"{command} --only {shlex.quote(manifest.stage)}",
    )


def code_text(code: JsonValue) -> str:
    """The version of the code that ran, in words."""
    if not isinstance(code, dict):
        return NOT_RECORDED
    source = f"source files sha256 {str(code.get('sha256'))[:12]}"
    if code.get("commit") is None:
        return f"{source}, not in a git checkout"
    is_dirty = code.get("is_dirty")
    state = "with local changes" if is_dirty else "clean"
    if is_dirty is None:
        state = "local changes unknown"
    patch = code.get("patch")
    if isinstance(patch, dict):
        state += f", patch sha256 {str(patch.get('sha256'))[:12]}"
        state += f" not kept: {patch['left_out']}" if patch.get("left_out") else ""
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


SHOWN_PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "ray",
    "onedl-mmengine",
    "onedl-mmcv",
    "onedl-mmdetection",
    "numpy",
)
"""The packages of which the report shows the versions. The manifest has all of them."""


def hardware_text(provenance: Mapping[str, JsonValue]) -> str | None:
    """The machines and GPUs that a stage ran on, in words; None in an older manifest."""
    machines = provenance.get("machines")
    if not isinstance(machines, list):
        return None
    kinds = Counter(_machine_text(machine) for machine in machines if isinstance(machine, dict))
    texts = [f"{number} x {kind}" if number > 1 else kind for kind, number in kinds.items()]
    names = (("driver", "driver"), ("cuda", "CUDA"), ("nccl", "NCCL"))
    versions = [f"{text} {provenance[name]}" for name, text in names if provenance.get(name)]
    return "; ".join(["; ".join(texts), *([", ".join(versions)] if versions else [])])


def _machine_text(machine: Mapping[str, JsonValue]) -> str:
    memory = machine.get("memory_gib")
    parts = [str(machine.get("cpu")), f"{machine.get('cores')} cores"]
    parts += [f"{memory:.0f} GiB"] if isinstance(memory, int | float) else []
    gpus = machine.get("gpus")
    for name, number in Counter(map(str, gpus if isinstance(gpus, list) else [])).items():
        parts.append(f"{number} x {name}")
    return ", ".join(parts)


def cost_text(provenance: Mapping[str, JsonValue]) -> str | None:
    """What all attempts at a stage cost, in words; None in an older manifest."""
    cost, attempts = provenance.get("cost"), provenance.get("attempts")
    if not isinstance(cost, dict) or not isinstance(attempts, list):
        return None
    parts = [f"{len(attempts)} attempt{'s' * (len(attempts) != 1)}"]
    for name, unit in (("gpu_hours", "GPU-hours"), ("core_hours", "core-hours")):
        hours = cost.get(name)
        if isinstance(hours, int | float) and hours:
            parts.append(f"{hours_text(hours)} {unit}")
    energy = provenance.get("energy")
    if isinstance(energy, dict) and isinstance(kwh := energy.get("kwh"), int | float):
        known, workers = energy.get("num_metered"), energy.get("num_workers")
        of = "" if known == workers else f" of {known} of {workers} workers"
        parts.append(f"{hours_text(kwh)} kWh on GPUs{of}")
    return ", ".join(parts)


def _records(manifest: Manifest) -> list[tuple[str, str]]:
    """The digests of what was recorded with the stage."""
    names = ((JOB_FILE, "job file"), (CODE_PATCH, "patch of local changes"))
    return [
        (text, f"sha256 {manifest.artifacts[name].files[0].sha256}")
        for name, text in names
        if name in manifest.artifacts
    ]


def _facts(provenance: Mapping[str, JsonValue]) -> list[tuple[str, str]]:
    hosts = provenance.get("hosts")
    several = isinstance(hosts, list) and len(set(map(str, hosts))) > 1
    host = ", ".join(dict.fromkeys(map(str, hosts))) if several and isinstance(hosts, list) else ""
    facts: list[tuple[str, JsonValue]] = [
        ("run", provenance.get("run_id")),
        ("machines" if host else "machine", host or provenance.get("host")),
        ("hardware", hardware_text(provenance)),
        ("cost", cost_text(provenance)),
        ("Ray job", provenance.get("submission_id")),
    ]
    facts += [(name, provenance.get(name)) for name in ("device", "workers", "python")]
    runs = provenance.get("runs")
    if isinstance(runs, list) and len(runs) > 1:
        facts.append(("all runs", ", ".join(map(str, runs))))
    finished = provenance.get("finished_at_s")
    if isinstance(finished, int | float):
        facts.append(("finished", time_text(finished)))
    packages = provenance.get("packages")
    if isinstance(packages, dict):
        shown = [f"{name} {packages[name]}" for name in SHOWN_PACKAGES if name in packages]
        others = len(packages) - len(shown)
        shown += [f"and {others} more in the manifest"] if others else []
        facts.append(("packages", ", ".join(shown)))
    return [(name, str(value)) for name, value in facts if value is not None]


def time_text(seconds: float) -> str:
    """A time in UTC, to the minute."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
