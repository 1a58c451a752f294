"""The notes of a stage's attempts come back as they were written, or are an error."""

from __future__ import annotations

import pytest

from orchestrator.errors import IntegrityError
from orchestrator.store import open_store
from orchestrator.store.attempts import AttemptNote, load_attempts, save_attempts

TRAINING = "train/key"


def test_attempts_come_back_and_are_none_before_the_first(store_uri: str) -> None:
    store = open_store(store_uri)
    assert load_attempts(store, TRAINING, "a") == ()
    note = AttemptNote(run_id="a", number=1, workers=2, began_at_s=0.5)
    save_attempts(store, TRAINING, "a", [note])
    assert load_attempts(store, TRAINING, "a") == (note,)


def test_damaged_attempts_are_an_error_about_their_object(store_uri: str) -> None:
    store = open_store(store_uri)
    store.write(f"{TRAINING}/runs/a", b"[{]")
    with pytest.raises(IntegrityError, match=r"^store .*: train/key/runs/a: is not a list of att"):
        load_attempts(store, TRAINING, "a")
