"""From a number back to its checkpoint, code, data, params and inputs, through all manifests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from pydantic import JsonValue

from orchestrator.artifact import Manifest
from orchestrator.report.lineage import Input, Lineage, make_lineage
from orchestrator.store.protocol import Store
from orchestrator.store.publish import load_manifest

INDENT = "  "


@dataclass(frozen=True)
class Trace:
    """A stage, where its numbers come from, and the same for each of its inputs."""

    manifest: Manifest
    lineage: Lineage
    inputs: tuple[TracedInput, ...]

    def to_json(self) -> dict[str, JsonValue]:
        whole = self.manifest.model_dump(mode="json")
        kept = ("stage", "kind", "key", "metrics", "params", "recipe_audit", "provenance")
        return {
            **{name: whole[name] for name in kept},
            "code": self.lineage.code,
            "data": self.lineage.data,
            "files": dict(self.lineage.files),
            "command": self.lineage.command,
            "inputs": [one.to_json() for one in self.inputs],
        }


@dataclass(frozen=True)
class TracedInput:
    """What a stage read, and where it comes from."""

    read: Input
    trace: Trace | None
    """None for a file from outside the job, and if the manifest is not in the store."""

    def to_json(self) -> dict[str, JsonValue]:
        return {**asdict(self.read), "from": self.trace and self.trace.to_json()}


def trace(store: Store, manifest: Manifest, *, run_command: str) -> Trace:
    """Return the trace of a manifest, back to the first stages. `run_command` runs the job.

    Raises IntegrityError if a manifest on the way is damaged.
    """
    loaded = dict(_load_inputs(store, manifest))
    return _trace(manifest, loaded, run_command)


def _load_inputs(store: Store, manifest: Manifest) -> Iterator[tuple[str, Manifest]]:
    """Yield the manifest of every Key that `manifest` depends on, once."""
    seen, waiting = {manifest.key}, [manifest]
    while waiting:
        for key in input_keys(waiting.pop()):
            found = None if key in seen else load_manifest(store, key)
            seen.add(key)
            if found is not None:
                waiting.append(found)
                yield key, found


def input_keys(manifest: Manifest) -> tuple[str, ...]:
    """Return the Keys of the stages whose outputs a stage read."""
    inputs = manifest.recipe.get("inputs")
    read = inputs.values() if isinstance(inputs, dict) else ()
    return tuple(str(one["key"]) for one in read if isinstance(one, dict) and "key" in one)


def outside_sha256s(manifest: Manifest) -> tuple[str, ...]:
    """Return the sha256 of the files from outside the job that a stage read. The store has them."""
    inputs = manifest.recipe.get("inputs")
    read = inputs.values() if isinstance(inputs, dict) else ()
    return tuple(str(one["sha256"]) for one in read if isinstance(one, dict) and "sha256" in one)


def _trace(manifest: Manifest, loaded: dict[str, Manifest], run_command: str) -> Trace:
    stage_of_key = {key: found.stage for key, found in loaded.items()}
    lineage = make_lineage(manifest, stage_of_key=stage_of_key, command=run_command)
    inputs = tuple(
        TracedInput(
            read,
            _trace(loaded[read.sha256], loaded, run_command) if read.sha256 in loaded else None,
        )
        for read in lineage.inputs
    )
    return Trace(manifest, lineage, inputs)


def trace_lines(trace: Trace, *, metric: str | None = None) -> list[str]:
    """Return the trace as an indented tree. A stage that several others read is written once."""
    return [*_metric_lines(trace, metric), *_stage_lines(trace, depth=0, written=set())]


def _metric_lines(trace: Trace, name: str | None) -> Iterator[str]:
    for metric in trace.manifest.metrics:
        if name in (None, metric.name):
            over = "" if metric.num_samples is None else f", {metric.num_samples} samples"
            value = f"{metric.value:.6g} {metric.unit}".rstrip()
            yield f"{trace.lineage.stage}.{metric.name} = {value} ({metric.split}{over})"


def _stage_lines(trace: Trace, *, depth: int, written: set[str]) -> Iterator[str]:
    lineage, start = trace.lineage, INDENT * depth
    yield f"{start}{lineage.stage} ({trace.manifest.kind}), Key {lineage.key}"
    if lineage.key in written:
        yield f"{start}{INDENT}as above"
        return
    written.add(lineage.key)
    own = start + INDENT
    yield f"{own}code: {lineage.code}"
    yield f"{own}data: {lineage.data}"
    for name, text in lineage.facts:
        yield f"{own}{name}: {text}"
    for name, sha256 in lineage.files:
        yield f"{own}file: {name} sha256 {sha256}"
    for param in lineage.params:
        differs = "" if param.reference is None else f" (reference recipe: {param.reference})"
        yield f"{own}param: {param.name} {param.value}{differs}"
    for one in trace.inputs:
        yield f"{own}input: {one.read.field} = {one.read.text}"
        if one.trace is not None:
            yield from _stage_lines(one.trace, depth=depth + 2, written=written)
        elif one.read.text.endswith("outside the job"):
            yield f"{own}{INDENT}sha256 {one.read.sha256}"
        else:
            yield f"{own}{INDENT}Key {one.read.sha256}: its manifest is not in this store"
