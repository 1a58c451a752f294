"""What changed between a plan and a stage's start never comes under the Key of what the plan
saw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cluster.attempt import Attempt
from orchestrator.cluster.inputs import check_read
from orchestrator.errors import DataError
from tests.orchestrator.test_recipe import make_attempt

PLANNED, OTHER = "a" * 64, "b" * 64


def _attempt(
    root: Path, *, data: str, found: str, files: Mapping[str, str] = {}, **changes: Any
) -> Attempt:
    """Of a plan that saw PLANNED, where the data are `found` now, and `files` the small ones."""
    attempt = make_attempt(root, "pretrain")
    inputs = {field: {"sha256": PLANNED} for field in files}
    return replace(
        attempt,
        params=attempt.params.model_copy(update={"data": data}),
        recipe={**attempt.recipe, "data": PLANNED, "inputs": inputs},
        fingerprint=lambda _: found,
        reads=lambda _: files,
        **changes,
    )


def test_what_the_plan_saw_is_read(tmp_path: Path) -> None:
    check_read(
        _attempt(tmp_path, data="s3://bucket/imagenet", found=PLANNED, files={"config": PLANNED})
    )


def test_data_in_s3_that_changed_since_the_plan_end_the_stage(tmp_path: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"^stages.pretrain: its data changed after .* from aaaaaaaaaaaa\.\.\. to bbbb",
    ):
        check_read(_attempt(tmp_path, data="s3://bucket/imagenet", found=OTHER))


def test_a_file_that_changed_since_the_plan_ends_the_stage(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"^stages.pretrain: config changed .*; run the job again, which plans anew"
    ):
        check_read(_attempt(tmp_path, data="/data", found=PLANNED, files={"config": OTHER}))


def test_only_stated_data_are_read_again_by_workers(
    tmp_path: Path,
) -> None:
    check_read(_attempt(tmp_path, data="/data", found=OTHER))
    with pytest.raises(
        DataError,
        match=f"^stages.pretrain.data_fingerprint is {PLANNED}, but the data on .* {OTHER}",
    ):
        check_read(_attempt(tmp_path, data="/data", found=OTHER, stated_data=PLANNED))
