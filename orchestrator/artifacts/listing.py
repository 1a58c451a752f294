"""What a store has of each finished stage: outputs with their sizes, when, by which run."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass

from pydantic import JsonValue

from orchestrator.artifact import Manifest
from orchestrator.artifacts.pins import pinned_keys
from orchestrator.errors import IntegrityError
from orchestrator.store.protocol import Store
from orchestrator.store.publish import MANIFESTS, key_of_manifest, load_manifest


@dataclass(frozen=True)
class Output:
    """An output of a stage."""

    num_files: int
    size: int
    """In bytes."""


@dataclass(frozen=True)
class Finished:
    """What a manifest says about a finished stage."""

    job: str | None
    kind: str
    outputs: Mapping[str, Output]
    finished_at_s: float | None
    run_id: str | None


@dataclass(frozen=True)
class Listed:
    """A stage's entry in a store."""

    stage: str | None
    """None if only the Key is known, because the manifest is damaged."""
    key: str
    is_pinned: bool
    finished: Finished | None
    """None if the stage is not finished, or if its manifest is damaged."""
    fault: str | None = None
    """What is wrong with the manifest."""

    @property
    def outputs(self) -> Mapping[str, Output]:
        return self.finished.outputs if self.finished else {}

    def to_json(self) -> JsonValue:
        finished = (
            {"finished": None} if self.finished is None else {"finished": asdict(self.finished)}
        )
        return {
            "stage": self.stage,
            "key": self.key,
            "pinned": self.is_pinned,
            "fault": self.fault,
            **finished,
        }


def list_stages(store: Store, keys: Mapping[str, str]) -> Iterator[Listed]:
    """Yield what the store has of each stage in `keys`, which maps stages to Keys."""
    pinned = pinned_keys(store)
    for stage, key in keys.items():
        yield _list_key(store, key, pinned, stage=stage)


def list_store(store: Store) -> Iterator[Listed]:
    """Yield every manifest of the store, in any order. Takes constant memory, except for pins."""
    pinned = pinned_keys(store)
    for key in stored_keys(store):
        yield _list_key(store, key, pinned, stage=None)


def stored_keys(store: Store) -> Iterator[str]:
    """Yield the Keys of all manifests, in any order."""
    for entry in store.entries(MANIFESTS):
        yield key_of_manifest(entry.name)


def _list_key(store: Store, key: str, pinned: Collection[str], *, stage: str | None) -> Listed:
    is_pinned = key in pinned
    try:
        manifest = load_manifest(store, key)
    except IntegrityError as err:
        return Listed(stage, key, is_pinned, None, fault=str(err))
    if manifest is None:
        return Listed(stage, key, is_pinned, None)
    return Listed(stage or manifest.stage, key, is_pinned, _finished(manifest))


def _finished(manifest: Manifest) -> Finished:
    provenance = manifest.provenance
    finished_at_s = provenance.get("finished_at_s")
    return Finished(
        job=_text(provenance, "job"),
        kind=manifest.kind,
        outputs={
            name: Output(len(artifact.files), sum(file.size for file in artifact.files))
            for name, artifact in manifest.artifacts.items()
        },
        finished_at_s=float(finished_at_s) if isinstance(finished_at_s, int | float) else None,
        run_id=_text(provenance, "run_id"),
    )


def _text(provenance: Mapping[str, JsonValue], name: str) -> str | None:
    value = provenance.get(name)
    return value if isinstance(value, str) else None
