"""Data that a job's stages read, as a machine finds them."""

from __future__ import annotations

import pytest

from orchestrator.cluster.job_data import DataQuestion
from orchestrator.errors import DataError


def test_data_that_differ_from_what_the_job_states_are_an_error() -> None:
    def question(stated: str | None) -> DataQuestion:
        return DataQuestion("images", ("train",), fingerprint=lambda: "found", stated=stated)

    assert question(None).answer() == question("found").answer() == "found"
    with pytest.raises(
        DataError,
        match=r"^images: the job's data_fingerprint is stated, but the data have found; correct",
    ):
        question("stated").answer()
