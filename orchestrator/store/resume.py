"""The resume state of unfinished stages: numbered checkpoints under `train/<key>`, each closed by a seal."""

from __future__ import annotations

import shutil
from pathlib import Path

from orchestrator.artifact import Artifact, File
from orchestrator.errors import IntegrityError
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


def fetch_newest_checkpoint(store: Store, training: str, folder: Path) -> int | None:
    """Download the newest intact checkpoint into `folder`, and return its number; None when there is none."""
    for number in reversed(_numbers(store, training)):
        try:
            fetch_checkpoint(store, training, number, folder)
        except IntegrityError:
            continue
        return number
    return None


def fetch_checkpoint(store: Store, training: str, number: int, folder: Path) -> None:
    """Download checkpoint `number` into `folder`; raises IntegrityError unless every file has its sha256."""
    shutil.rmtree(folder, ignore_errors=True)
    name = _seal(training, number)
    try:
        seal = Artifact.model_validate_json(store.read(name) or b"")
    except ValueError as err:
        raise IntegrityError(f"store {store.uri}: {name}: not the seal of a checkpoint: {err}") from err
    for file in seal.files:
        path = folder / file.path
        if not store.download(f"{_folder(training, number)}/{file.path}", path) or sha256_of(path) != file.sha256:
            raise IntegrityError(f"store {store.uri}: {_folder(training, number)}/{file.path} is not as {name} has it")


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
