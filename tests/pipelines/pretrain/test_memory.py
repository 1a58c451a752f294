"""Running out of memory is reported in terms of the job's fields."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from orchestrator.errors import JobError
from pipelines.pretrain.memory import explaining_memory
from tests.pipelines.pretrain.conftest import make_params

CUDA = torch.device("cuda:1")
TEXT = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 1 has a total capacity of 79 GiB\nmore"


def test_out_of_memory_names_the_fields_to_change() -> None:
    params = make_params(Path("/data"), batch_size=1024, accumulate=2, img_size=56)
    with pytest.raises(JobError) as caught, explaining_memory(params, world_size=4, device=CUDA):
        raise torch.OutOfMemoryError(TEXT)
    text = str(caught.value)
    assert text.startswith("cuda:1: out of memory with 128 images of 56 x 56 pixels at a time")
    for field in (
        "batch_size 1024",
        "workers 4",
        "accumulate to 4",
        "activation_checkpointing",
        "bf16",
        "img_size",
    ):
        assert field in text
    assert text.endswith("a total capacity of 79 GiB")
    assert str(pickle.loads(pickle.dumps(caught.value))) == text


def test_settings_already_made_are_not_advised() -> None:
    params = make_params(Path("/data"), activation_checkpointing=True, precision="bf16")
    with pytest.raises(JobError) as caught, explaining_memory(params, world_size=1, device=CUDA):
        raise torch.OutOfMemoryError(TEXT)
    assert "activation_checkpointing" not in str(caught.value)
    assert "precision: bf16" not in str(caught.value)


def test_other_errors_are_not_changed() -> None:
    with (
        pytest.raises(RuntimeError, match=r"^shapes$"),
        explaining_memory(make_params(Path("/data")), world_size=1, device=CUDA),
    ):
        raise RuntimeError("shapes")
