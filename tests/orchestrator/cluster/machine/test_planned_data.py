"""Data and files that change between the plan and the start of a stage end the stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cluster.attempt import Attempt
from orchestrator.cluster.machine import check_read
from orchestrator.errors import DataError
from tests.orchestrator.test_recipe import make_attempt

PLANNED, OTHER = "a" * 64, "b" * 64


def _attempt(
    root: Path, *, data: str, found: str, files: Mapping[str, str] = {}, **changes: Any
) -> Attempt:
    """An attempt whose plan saw PLANNED. The data's digest is now `found`, the small files' digests
    are `files`."""
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


def test_unchanged_data_and_files_pass_the_check(tmp_path: Path) -> None:
    check_read(
        _attempt(tmp_path, data="s3://bucket/imagenet", found=PLANNED, files={"config": PLANNED})
    )


def test_data_in_s3_changed_since_the_plan_end_the_stage(tmp_path: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"^stages.pretrain: its data changed after .* from aaaaaaaaaaaa\.\.\. to bbbb",
    ):
        check_read(_attempt(tmp_path, data="s3://bucket/imagenet", found=OTHER))


def test_file_changed_since_the_plan_ends_the_stage(tmp_path: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"^stages.pretrain: config changed .*; run the job again to plan with the new",
    ):
        check_read(_attempt(tmp_path, data="/data", found=PLANNED, files={"config": OTHER}))


def test_workers_read_data_in_a_folder_again_only_if_stated(tmp_path: Path) -> None:
    check_read(_attempt(tmp_path, data="/data", found=OTHER))
    with pytest.raises(
        DataError,
        match=f"^stages.pretrain.data_fingerprint is {PLANNED}, but the data on .* {OTHER}",
    ):
        check_read(_attempt(tmp_path, data="/data", found=OTHER, stated_data=PLANNED))
