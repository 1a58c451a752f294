"""Errors can be pickled and keep their messages."""

from __future__ import annotations

import pickle

import pytest

from orchestrator import errors
from orchestrator.errors import Fault, OrchestratorError, SpecError


def _all(base: type[OrchestratorError]) -> list[type[OrchestratorError]]:
    """The errors in errors.py. Errors derived elsewhere are tested there."""
    children = [child for child in base.__subclasses__() if child.__module__ == errors.__name__]
    return [base, *(found for child in children for found in _all(child))]


@pytest.mark.parametrize(
    "kind", [kind for kind in _all(OrchestratorError) if kind is not SpecError]
)
def test_every_error_pickles(kind: type[OrchestratorError]) -> None:
    error = pickle.loads(pickle.dumps(kind("what, where, what to do")))
    assert type(error) is kind
    assert str(error) == "what, where, what to do"


def test_spec_error_pickles_with_its_faults() -> None:
    error = SpecError(
        [
            Fault("a.yaml", 3, 5, "stages.x.lr", "is wrong"),
            Fault("--set", None, None, "seed", "too"),
        ]
    )
    again = pickle.loads(pickle.dumps(error))
    assert again.faults == error.faults
    assert str(again) == "a.yaml:3:5: stages.x.lr: is wrong\n--set seed: too"


def test_tree_in_the_docstring_has_every_error() -> None:
    assert errors.__doc__ is not None
    for kind in _all(OrchestratorError):
        assert f" {kind.__name__} " in errors.__doc__
