"""The name of an attempt in Ray's dashboard."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from orchestrator.cluster.attempt import Attempt


def _attempt(job: str, stage: str) -> Attempt:
    values: dict[str, Any] = dict.fromkeys(field.name for field in fields(Attempt))
    return Attempt(
        **{**values, "stage": stage, "key": "0123456789abcdef", "provenance": {"job": job}}
    )


@pytest.mark.parametrize(
    ("job", "stage", "name"),
    [
        ("paper", "pretrain", "paper.pretrain-01234567"),
        ("paper", "coco/mask_rcnn-0", "paper.coco.mask_rcnn-0-01234567"),
        ("j" * 70, "s" * 70, f"{'j' * 70}.{'s' * 49}-01234567"),
    ],
)
def test_name_in_ray_has_job_stage_and_key(job: str, stage: str, name: str) -> None:
    assert _attempt(job, stage).ray_name == name


def test_long_name_in_ray_is_cut_between_characters() -> None:
    name = _attempt("é" * 80, "stage").ray_name
    assert name == f"{'é' * 60}-01234567"


def test_name_in_ray_has_the_trial_of_a_search() -> None:
    trial = replace(_attempt("paper", "search"), trial="trial-0007")
    assert trial.ray_name == "paper.search.trial-0007-01234567"
