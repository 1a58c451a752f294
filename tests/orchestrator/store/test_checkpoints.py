"""Resume state: training resumes only from complete, unaltered checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.errors import IntegrityError
from orchestrator.store import Store, open_store
from orchestrator.store.checkpoints import (
    CheckpointName,
    Newest,
    commit_checkpoint,
    fetch_checkpoint,
    fetch_newest_checkpoint,
)
from orchestrator.store.training import Training

TRAINING = Training("train/abc", 1)


@pytest.fixture
def store(store_uri: str) -> Store:
    return open_store(store_uri)


def _commit(
    store: Store,
    tmp_path: Path,
    number: int,
    *,
    score: float | None = None,
    keep_best: int = 0,
    token: int = 1,
) -> None:
    folder = tmp_path / f"epoch{number}"
    folder.mkdir(exist_ok=True)
    (folder / "state.pt").write_text(f"state {number}")
    training = TRAINING._replace(token=token)
    commit_checkpoint(store, training, folder, score=score, keep_best=keep_best)


def _kept(store: Store) -> list[int]:
    """The numbers of the checkpoints that have both a seal and a state."""
    names = {
        name.removeprefix(f"{TRAINING.folder}/checkpoints/")
        for name in store.names(TRAINING.folder)
    }
    return sorted(
        int(name[:8])
        for name in names
        if name.endswith(".json") and f"{name[:8]}/state.pt" in names
    )


def _resumed(store: Store, tmp_path: Path) -> str | None:
    name = fetch_newest_checkpoint(store, TRAINING, tmp_path / "fetched").name
    return None if name is None else (tmp_path / "fetched" / "state.pt").read_text()


def test_nothing_is_resumed_without_a_checkpoint(store: Store, tmp_path: Path) -> None:
    assert _resumed(store, tmp_path) is None


def test_newest_checkpoint_is_resumed_and_two_are_kept(store: Store, tmp_path: Path) -> None:
    for number in range(8, 13):
        _commit(store, tmp_path, number)
    assert _resumed(store, tmp_path) == "state 12"
    assert len(store.names(TRAINING.folder)) == 4


def test_best_checkpoints_are_kept_in_addition_to_the_newest(store: Store, tmp_path: Path) -> None:
    for number, score in enumerate((3.0, 9.0, None, 9.0, 4.0, 1.0, None, 2.0), start=1):
        _commit(store, tmp_path, number, score=score, keep_best=2)
    assert _kept(store) == [2, 4, 7, 8]
    _commit(store, tmp_path, 9, score=9.5, keep_best=1)
    assert _kept(store) == [8, 9]
    assert _resumed(store, tmp_path) == "state 9"


def test_checkpoint_with_a_damaged_seal_is_never_a_best_one(store: Store, tmp_path: Path) -> None:
    _commit(store, tmp_path, 1, score=5.0)
    seal = f"{TRAINING.folder}/checkpoints/00000001.json"
    content = json.loads(store.read(seal) or b"")
    assert content.pop("score") == 5.0
    store.write(seal, json.dumps(content).encode())
    assert _resumed(store, tmp_path) == "state 1"
    store.write(seal, b"damaged")
    for number in (2, 3):
        _commit(store, tmp_path, number, score=1.0, keep_best=1)
    assert _kept(store) == [2, 3]


def test_checkpoint_that_lost_its_seal_cannot_be_fetched(store: Store, tmp_path: Path) -> None:
    _commit(store, tmp_path, 1)
    (name,) = (name for name in store.names(TRAINING.folder) if name.endswith(".json"))
    store.delete(name)
    with pytest.raises(IntegrityError, match=rf"{name} is missing$"):
        fetch_checkpoint(store, TRAINING, CheckpointName(1, 1), tmp_path / "fetched")


def test_checkpoint_without_its_seal_is_ignored(store: Store, tmp_path: Path) -> None:
    _commit(store, tmp_path, 1)
    store.write(f"{TRAINING.folder}/checkpoints/00000002/state.pt", b"half")
    assert _resumed(store, tmp_path) == "state 1"


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("00000002/state.pt", b"damaged", "00000002/state.pt differs from its sha256"),
        ("00000002/state.pt", b"cut", "00000002/state.pt has 3 bytes instead of 7"),
        ("00000002/state.pt", None, "00000002/state.pt is missing"),
        ("00000002.json", b"damaged", "00000002.json is not the seal of a checkpoint"),
        ("00000002.json", b"", "00000002.json is not the seal of a checkpoint"),
    ],
)
def test_damaged_checkpoint_falls_back_to_the_previous_one(
    store: Store, tmp_path: Path, name: str, content: bytes | None, why: str
) -> None:
    for number in (1, 2):
        _commit(store, tmp_path, number)
    if content is None:
        store.delete(f"{TRAINING.folder}/checkpoints/{name}")
    else:
        store.write(f"{TRAINING.folder}/checkpoints/{name}", content)
    found = fetch_newest_checkpoint(store, TRAINING, tmp_path / "fetched")
    assert (tmp_path / "fetched" / "state.pt").read_text() == "state 1"
    damage = f"checkpoint 2 is damaged: store {store.uri}: {TRAINING.folder}/checkpoints/{why}"
    assert found == Newest(CheckpointName(1, 1), (damage,))
    assert (
        found.remark()
        == f"{damage}; resuming from checkpoint 1, so the training after it is repeated"
    )


def test_without_an_intact_checkpoint_training_starts_over(store: Store, tmp_path: Path) -> None:
    assert fetch_newest_checkpoint(store, TRAINING, tmp_path / "fetched").remark() is None
    for number in (1, 2):
        _commit(store, tmp_path, number)
        store.write(f"{TRAINING.folder}/checkpoints/{number:08d}/state.pt", b"damaged")
    found = fetch_newest_checkpoint(store, TRAINING, tmp_path / "fetched")
    assert found.name is None
    remark = found.remark() or ""
    assert remark.startswith("checkpoint 2 is damaged: ")
    assert "; checkpoint 1 is damaged: " in remark
    assert remark.endswith("; no intact checkpoint is left, so training starts from the beginning")


def test_files_that_are_not_checkpoints_are_ignored(store: Store, tmp_path: Path) -> None:
    _commit(store, tmp_path, 1)
    for name in ("notes.txt", "00000002.json.bak", "best.json"):
        store.write(f"{TRAINING.folder}/checkpoints/{name}", b"{}")
    found = fetch_newest_checkpoint(store, TRAINING, tmp_path / "fetched")
    assert found == Newest(CheckpointName(1, 1))


def test_files_of_a_killed_commit_are_ignored(store: Store, tmp_path: Path) -> None:
    _commit(store, tmp_path, 1)
    store.write(f"{TRAINING.folder}/checkpoints/00000002/state.pt", b"half")
    store.write(f"{TRAINING.folder}/checkpoints/00000002/left.pt", b"over")
    _commit(store, tmp_path, 2)
    assert _resumed(store, tmp_path) == "state 2"


def test_a_later_owner_resumes_what_the_earlier_one_wrote(store: Store, tmp_path: Path) -> None:
    _commit(store, tmp_path, 1, token=1)
    later = TRAINING._replace(token=2)
    found = fetch_newest_checkpoint(store, later, tmp_path / "fetched")
    assert found.name == CheckpointName(token=1, number=1)
    _commit(store, tmp_path, 2, token=2)
    found = fetch_newest_checkpoint(store, later, tmp_path / "fetched")
    assert found.name == CheckpointName(token=2, number=2)


def test_an_earlier_owner_that_wakes_up_touches_nothing_of_a_later_one(
    store: Store, tmp_path: Path
) -> None:
    _commit(store, tmp_path, 1, token=1)
    for number in (2, 3):
        _commit(store, tmp_path, number, token=2)
    before = {name: store.read(name) for name in store.names(TRAINING.folder) if "-2" in name}
    for number in (7, 8, 9):
        _commit(store, tmp_path, number, token=1)
    assert {name: store.read(name) for name in before} == before
    found = fetch_newest_checkpoint(store, TRAINING._replace(token=2), tmp_path / "fetched")
    assert found.name == CheckpointName(token=2, number=3)
    assert (tmp_path / "fetched" / "state.pt").read_text() == "state 3"
