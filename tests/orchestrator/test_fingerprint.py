"""Which params a recipe has if a search sets some of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.fingerprint import KeyInputs, recipe_of
from orchestrator.spec import load_job
from pipelines import KINDS

JOB = """
name: searched
store: ./store
stages:
  search: {{kind: tune, of: pretrain, space: {{{space}}}, num_trials: 2}}
  pretrain: {{kind: pretrain, data: imagenet, params_from: search.best_params, {params}}}
"""


def params_in_recipe(folder: Path, stage: str, *, space: str, params: str) -> Any:
    (folder / "job.yaml").write_text(JOB.format(space=space, params=params))
    job = load_job(folder / "job.yaml", kinds=KINDS, published={}, base_dir=folder)
    keys = dict.fromkeys(job.stages, "k")
    key_inputs = KeyInputs(data="d", rerun=0, input_keys=keys, file_digests={})
    return recipe_of(job, job.stages[stage], key_inputs)["params"]


@pytest.mark.parametrize("stage", ["search", "pretrain"])
@pytest.mark.parametrize(
    ("space", "written"),
    [
        (
            "batch_size: {choice: [512, 1024]}",
            "lr: 1.0e-3",
        ),  # without a value, it would follow the batch size of each trial
        ("lr: {uniform: [1.0e-4, 1.0e-3]}", "min_lr: 1.0e-5"),
        ("model.embed_dim: {choice: [96, 192]}", "model: {drop_path_rate: 0.2}"),
    ],
)
def test_written_value_does_not_depend_on_a_searched_one(
    tmp_path: Path, stage: str, space: str, written: str
) -> None:
    left_out = "model: cat_tiny" if "model" not in written else "model: {drop_path_rate: 0.1}"
    texts = [written if "model" in written else f"{left_out}, {written}", left_out]
    one, other = (params_in_recipe(tmp_path, stage, space=space, params=text) for text in texts)
    assert one != other


@pytest.mark.parametrize("stage", ["search", "pretrain"])
def test_usual_value_has_the_same_key_as_no_value(tmp_path: Path, stage: str) -> None:
    space = "weight_decay: {uniform: [0.0, 0.1]}"
    one, other = (
        params_in_recipe(tmp_path, stage, space=space, params=text)
        for text in ("lr: 1.0e-3, min_lr: 1.0e-5, img_size: 224", "epochs: 300")
    )
    assert one == other
