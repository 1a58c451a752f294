"""The resume state of unfinished stages: numbered checkpoints under `train/<key>`.

A checkpoint is complete once its seal is written. Its name is its number and the token of its
writer; the newest is the one with the highest token, and among these with the highest number."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from orchestrator.artifact import File, Value
from orchestrator.errors import IntegrityError
from orchestrator.store.protocol import Store
from orchestrator.store.publish import fetch_file, read_checked
from orchestrator.store.training import Training, token_suffix

NUM_KEPT = 2
"""The number of newest checkpoints kept: two, in case the newest is damaged."""
_SEAL = re.compile(r"([0-9]{8,})(?:-([0-9]+))?\.json")


class CheckpointName(NamedTuple):
    """The name of a checkpoint. Newer ones are greater."""

    token: int
    """Of its writer's lease."""
    number: int

    def __str__(self) -> str:
        return f"{self.number:08d}{token_suffix(self.token)}"


class Seal(Value):
    """The list of a checkpoint's files, sorted by path, and its score. Written last."""

    files: tuple[File, ...]
    score: float | None = None
    """Higher is better. None if nothing was measured, and in seals of versions without scores."""


@dataclass(frozen=True)
class Newest:
    """The checkpoint that a training resumes from."""

    name: CheckpointName | None
    """The newest intact checkpoint, or None."""
    damaged: tuple[str, ...] = ()
    """What is wrong with each newer checkpoint, newest first."""

    def remark(self) -> str | None:
        """Describe what was lost and what the training does now. None if nothing was lost."""
        if not self.damaged:
            return None
        lost = "; ".join(self.damaged)
        if self.name is None:
            return f"{lost}; no intact checkpoint is left, so training starts from the beginning"
        return (
            f"{lost}; resuming from checkpoint {self.name.number}, so the training after it is "
            "repeated"
        )


def commit_checkpoint(
    store: Store,
    training: Training,
    folder: Path,
    *,
    score: float | None = None,
    keep_best: int = 0,
) -> None:
    """Upload `folder` as the newest checkpoint of `training`. It is safe once this returns.

    The seal, which lists every file with its sha256, is written last, so a half-written checkpoint
    is never used. Then older checkpoints are deleted, except the newest NUM_KEPT and the
    `keep_best` with the highest scores. Checkpoints of later owners are not touched.
    """
    older = _sealed(store, training)
    number = max((name.number for name in older), default=0) + 1
    new = CheckpointName(training.token, number)
    files = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        relative = path.relative_to(folder).as_posix()
        digests = store.upload(f"{_folder(training, new)}/{relative}", path)
        files.append(File(path=relative, sha256=digests.sha256, size=digests.size))
    store.write(
        _seal(training, new), Seal(files=tuple(files), score=score).model_dump_json().encode()
    )
    for old in _superfluous(store, training, [*older, new], keep_best):
        _delete_checkpoint(store, training, old)


def _superfluous(
    store: Store, training: Training, names: Sequence[CheckpointName], keep_best: int
) -> list[CheckpointName]:
    """The checkpoints that are neither among the newest nor the best. `names` are all that exist,
    oldest first."""
    old = names[:-NUM_KEPT]
    if not old or not keep_best:
        return list(old)
    scores = {name: _score(store, training, name) for name in names}
    # Of equal scores the older one counts as better, so that a plateau does not change what is
    # kept.
    ranked = sorted((-score, name) for name, score in scores.items() if score is not None)
    best = {name for _, name in ranked[:keep_best]}
    return [name for name in old if name not in best]


def _score(store: Store, training: Training, name: CheckpointName) -> float | None:
    try:
        return _load_seal(store, training, name, lambda _: None).score
    except IntegrityError:
        return None


def fetch_newest_checkpoint(store: Store, training: Training, folder: Path) -> Newest:
    """Download the newest intact checkpoint into `folder`, if there is one."""
    damaged = []
    for name in reversed(_sealed(store, training)):
        try:
            fetch_checkpoint(store, training, name, folder)
        except IntegrityError as err:
            damaged.append(f"checkpoint {name.number} is damaged: {err}")
            continue
        return Newest(name, tuple(damaged))
    return Newest(None, tuple(damaged))


def fetch_checkpoint(store: Store, training: Training, name: CheckpointName, folder: Path) -> None:
    """Download a checkpoint into `folder`. Raises IntegrityError unless every file has its
    sha256."""

    def fetch(seal: Seal) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        for file in seal.files:
            fetch_file(store, f"{_folder(training, name)}/{file.path}", file, folder / file.path)

    _load_seal(store, training, name, fetch)


def _load_seal(
    store: Store, training: Training, name: CheckpointName, use: Callable[[Seal], None]
) -> Seal:
    """Return the seal after `use` of it. It is read again if `use` raises IntegrityError: then the
    sha256 of a file may have arrived wrong."""
    stored_at = _seal(training, name)

    def parse(content: bytes) -> Seal:
        try:
            seal = Seal.model_validate_json(content)
        except ValueError as err:
            raise IntegrityError(
                f"store {store.uri}: {stored_at} is not the seal of a checkpoint"
            ) from err
        use(seal)
        return seal

    seal = read_checked(store, stored_at, parse)
    if seal is None:
        raise IntegrityError(f"store {store.uri}: {stored_at} is missing")
    return seal


def _sealed(store: Store, training: Training) -> list[CheckpointName]:
    """The sealed checkpoints of this and earlier owners, oldest first. Files with other names are
    ignored."""
    prefix = f"{training.folder}/checkpoints"
    names = (name.removeprefix(f"{prefix}/") for name in store.names(prefix))
    seals = (seal for name in names if (seal := _SEAL.fullmatch(name)))
    found = (CheckpointName(int(seal[2] or 1), int(seal[1])) for seal in seals)
    return sorted(name for name in found if name.token <= training.token)


def _delete_checkpoint(store: Store, training: Training, name: CheckpointName) -> None:
    store.delete(_seal(training, name))
    for stored in store.names(_folder(training, name)):
        store.delete(stored)


def _folder(training: Training, name: CheckpointName) -> str:
    return f"{training.folder}/checkpoints/{name}"


def _seal(training: Training, name: CheckpointName) -> str:
    return f"{_folder(training, name)}.json"
