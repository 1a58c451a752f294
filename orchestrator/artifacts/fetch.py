"""Fetches an output of a stage into a folder of the user, and never overwrites what differs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from orchestrator.artifact import Artifact
from orchestrator.artifacts.scratch import drafts_in
from orchestrator.errors import JobError
from orchestrator.store.protocol import Store
from orchestrator.store.publish import fetch_artifact, sha256_of

MAX_NAMED = 3


def fetch_output(store: Store, artifact: Artifact, folder: Path, *, key: str) -> int:
    """Fetch the files that `folder` does not have yet. Returns their number. `key` is the stage's
    Key.

    Each file appears whole and verified. Raises JobError if files in `folder` differ,
    IntegrityError for a damaged blob, StoreError if `folder` cannot be written.
    """
    expected = {file.path: file.sha256 for file in artifact.files}
    with drafts_in(folder) as drafts:
        present = _present(folder, expected)
        missing = tuple(file for file in artifact.files if file.path not in present)
        fetch_artifact(store, Artifact(files=missing), drafts, key=key)
        for file in missing:
            _move(drafts / file.path, folder / file.path)
    return len(missing)


def place_files(folder: Path, made: Path) -> int:
    """Move the files in `made`, which is below `folder`, to `folder`, except those that it has
    already. Returns their number. Raises the errors of `fetch_output`."""
    made_files = {path.name: sha256_of(path) for path in made.iterdir()}
    missing = made_files.keys() - _present(folder, made_files)
    for name in missing:
        _move(made / name, folder / name)
    return len(missing)


def _present(folder: Path, expected: Mapping[str, str]) -> set[str]:
    """Return the names that `folder` has with the expected sha256. Raises JobError if it has others
    in their places."""
    present = {name for name in expected if (folder / name).exists()}
    differing = [
        name
        for name in sorted(present)
        if not (folder / name).is_file() or sha256_of(folder / name) != expected[name]
    ]
    if differing:
        raise JobError(
            f"{folder}: has other files named {_listed(differing)}; nothing was written: move them "
            "away or choose another folder"
        )
    return present


def _listed(names: Iterable[str]) -> str:
    known = list(names)
    return ", ".join(known[:MAX_NAMED]) + (", ..." if len(known) > MAX_NAMED else "")


def _move(draft: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    draft.replace(target)
