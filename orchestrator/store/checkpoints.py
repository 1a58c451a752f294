"""The resume state of unfinished stages: numbered checkpoints under `train/<key>`.

A checkpoint is complete once its seal is written."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.artifact import File, Value
from orchestrator.errors import IntegrityError
from orchestrator.store.protocol import Store
from orchestrator.store.publish import fetch_file

NUM_KEPT = 2
"""The number of newest checkpoints kept: two, in case the newest is damaged."""
_SEAL = re.compile(r"([0-9]{8,})\.json")


class Seal(Value):
    """The list of a checkpoint's files, sorted by path, and its score. Written last."""

    files: tuple[File, ...]
    score: float | None = None
    """Higher is better. None if nothing was measured, and in seals of versions without scores."""


@dataclass(frozen=True)
class Newest:
    """The checkpoint that a training resumes from."""

    number: int | None
    """The number of the newest intact checkpoint, or None."""
    damaged: tuple[str, ...] = ()
    """What is wrong with each newer checkpoint, newest first."""

    def remark(self) -> str | None:
        """Describe what was lost and what the training does now. None if nothing was lost."""
        if not self.damaged:
            return None
        lost = "; ".join(self.damaged)
        if self.number is None:
            return f"{lost}; no intact checkpoint is left, so training starts from the beginning"
        return (
            f"{lost}; resuming from checkpoint {self.number}, so the training after it is repeated"
        )


def note_run(store: Store, training: str, run_id: str) -> tuple[str, ...]:
    """Note that a run trains under `training`; returns the ids of all runs that did, oldest
    first."""
    store.write(f"{training}/runs/{run_id}", b"")
    return runs_of(store, training)


def runs_of(store: Store, training: str) -> tuple[str, ...]:
    """The ids of the runs that have trained under `training`, oldest first: an id begins with its
    time."""
    return tuple(name.rpartition("/")[2] for name in store.names(f"{training}/runs"))


def commit_checkpoint(
    store: Store, training: str, folder: Path, *, score: float | None = None, keep_best: int = 0
) -> None:
    """Upload `folder` as the newest checkpoint of `training`. It is safe once this returns.

    The seal, which lists every file with its sha256, is written last, so a half-written checkpoint
    is never used. Then older checkpoints are deleted, except the newest NUM_KEPT and the
    `keep_best` with the highest scores.
    """
    older = _numbers(store, training)
    number = max(older, default=0) + 1
    files = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        relative = path.relative_to(folder).as_posix()
        digests = store.upload(f"{_folder(training, number)}/{relative}", path)
        files.append(File(path=relative, sha256=digests.sha256, size=digests.size))
    store.write(
        _seal(training, number), Seal(files=tuple(files), score=score).model_dump_json().encode()
    )
    for old in _superfluous(store, training, [*older, number], keep_best):
        _delete_checkpoint(store, training, old)


def _superfluous(store: Store, training: str, numbers: Sequence[int], keep_best: int) -> list[int]:
    """The checkpoints that are neither among the newest nor the best. `numbers` are all that exist,
    ascending."""
    old = numbers[:-NUM_KEPT]
    if not old or not keep_best:
        return list(old)
    scores = {number: _score(store, training, number) for number in numbers}
    # Of equal scores the older one counts as better, so that a plateau does not change what is
    # kept.
    ranked = sorted((-score, number) for number, score in scores.items() if score is not None)
    best = {number for _, number in ranked[:keep_best]}
    return [number for number in old if number not in best]


def _score(store: Store, training: str, number: int) -> float | None:
    try:
        return _load_seal(store, training, number).score
    except IntegrityError:
        return None


def fetch_newest_checkpoint(store: Store, training: str, folder: Path) -> Newest:
    """Download the newest intact checkpoint into `folder`, if there is one."""
    damaged = []
    for number in reversed(_numbers(store, training)):
        try:
            fetch_checkpoint(store, training, number, folder)
        except IntegrityError as err:
            damaged.append(f"checkpoint {number} is damaged: {err}")
            continue
        return Newest(number, tuple(damaged))
    return Newest(None, tuple(damaged))


def fetch_checkpoint(store: Store, training: str, number: int, folder: Path) -> None:
    """Download checkpoint `number` into `folder`. Raises IntegrityError unless every file has its
    sha256."""
    shutil.rmtree(folder, ignore_errors=True)
    for file in _load_seal(store, training, number).files:
        fetch_file(store, f"{_folder(training, number)}/{file.path}", file, folder / file.path)


def _load_seal(store: Store, training: str, number: int) -> Seal:
    name = _seal(training, number)
    try:
        return Seal.model_validate_json(store.read(name) or b"")
    except ValueError as err:
        raise IntegrityError(f"store {store.uri}: {name} is not the seal of a checkpoint") from err


def _numbers(store: Store, training: str) -> list[int]:
    """Numbers of the sealed checkpoints, oldest first. Files with other names are ignored."""
    prefix = f"{training}/checkpoints/"
    names = (name.removeprefix(prefix) for name in store.names(f"{training}/checkpoints"))
    return sorted(int(seal[1]) for name in names if (seal := _SEAL.fullmatch(name)))


def _delete_checkpoint(store: Store, training: str, number: int) -> None:
    store.delete(_seal(training, number))
    for name in store.names(_folder(training, number)):
        store.delete(name)


def _folder(training: str, number: int) -> str:
    return f"{training}/checkpoints/{number:08d}"


def _seal(training: str, number: int) -> str:
    return f"{_folder(training, number)}.json"
