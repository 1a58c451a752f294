"""The resume state of unfinished stages: numbered checkpoints under `train/<key>`, each closed by a seal."""

from __future__ import annotations

from pathlib import Path

from orchestrator.artifact import Artifact, File
from orchestrator.store.protocol import Store
from orchestrator.store.publish import sha256_of

NUM_KEPT = 2
"""The newest, and the one before it in case the newest turns out to be damaged."""


def commit_checkpoint(store: Store, training: str, folder: Path) -> None:
    """Upload `folder` as the newest checkpoint of the training under `training`; once this returns it is safe.

    The seal, which lists every file with its sha256, is written last, so a half-written checkpoint is never resumed.
    """
    older = _numbers(store, training)
    number = max(older, default=0) + 1
    files = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        relative = path.relative_to(folder).as_posix()
        store.upload(f"{_folder(training, number)}/{relative}", path)
        files.append(File(path=relative, sha256=sha256_of(path), size=path.stat().st_size))
    seal = Artifact(files=tuple(files)).model_dump_json().encode()
    store.write(_seal(training, number), seal)
    for old in older[: 1 - NUM_KEPT]:
        _delete_checkpoint(store, training, old)


def fetch_newest_checkpoint(store: Store, training: str, folder: Path) -> Path | None:
    """Download the newest intact checkpoint below `folder` and return its folder; None when there is none."""
    for number in reversed(_numbers(store, training)):
        target = folder / f"{number:08d}"
        if _fetch(store, training, number, target):
            return target
    return None


def _fetch(store: Store, training: str, number: int, target: Path) -> bool:
    try:
        seal = Artifact.model_validate_json(store.read(_seal(training, number)) or b"")
    except ValueError:
        return False
    return all(
        store.download(f"{_folder(training, number)}/{file.path}", target / file.path)
        and sha256_of(target / file.path) == file.sha256
        for file in seal.files
    )


def _numbers(store: Store, training: str) -> list[int]:
    """Numbers of the sealed checkpoints, oldest first."""
    prefix = f"{training}/checkpoints/"
    seals = (name.removeprefix(prefix) for name in store.names(f"{training}/checkpoints"))
    return sorted(int(seal.removesuffix(".json")) for seal in seals if "/" not in seal)


def _delete_checkpoint(store: Store, training: str, number: int) -> None:
    store.delete(_seal(training, number))
    for name in store.names(_folder(training, number)):
        store.delete(name)


def _folder(training: str, number: int) -> str:
    return f"{training}/checkpoints/{number:08d}"


def _seal(training: str, number: int) -> str:
    return f"{_folder(training, number)}.json"
