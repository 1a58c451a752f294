"""Training on a GPU. Each test has a twin for the CPU in test_exact_resume, test_updates and
test_memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from orchestrator.contract import StageContext, StageResult
from orchestrator.errors import JobError, StoppedError
from pipelines.pretrain.train import run
from pipelines.training.coordinator import Action, ActionReduction, Coordinator
from pipelines.training.intervals import CheckpointEvery
from tests.pipelines.pretrain.conftest import MakeContext, Recorder

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
RECIPE = {"epochs": 2, "warmup_epochs": 1, "batch_size": 20, "drop_path_rate": 0.2}
GPU = torch.device("cuda:0")


def on_gpu(made: tuple[StageContext, Recorder]) -> tuple[StageContext, Recorder]:
    context, recorder = made
    return replace(context, device="cuda:0"), recorder


def weights(result: StageResult) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = load_file(result.outputs["checkpoint"] / "model.safetensors")
    return tensors


@pytest.mark.usefixtures("deterministic")
@pytest.mark.filterwarnings("ignore:.*deterministic:UserWarning")
@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "fp16"},
        {"precision": "bf16", "ema_decay": 0.9, "accumulate": 2},
        {
            "precision": "bf16",
            "augmentation": "device",
            "activation_checkpointing": True,
            "channels_last": True,
        },
    ],
    ids=str,
)
def test_stopping_after_any_update_changes_nothing(
    make_context: MakeContext, changes: dict[str, Any]
) -> None:
    context, _ = on_gpu(make_context(**RECIPE, **changes))
    straight = run(context)
    stopped, recorder = on_gpu(make_context(**RECIPE, **changes))
    recorder.stops_after = 8
    with pytest.raises(StoppedError):
        run(stopped)
    resumed, _ = on_gpu(make_context(**RECIPE, **changes, resume_dir=recorder.kept_dir))
    result = run(resumed)
    assert all(
        torch.equal(tensor, weights(straight)[name]) for name, tensor in weights(result).items()
    )


@pytest.mark.filterwarnings(
    "ignore:.*script_method:DeprecationWarning", "ignore::UserWarning:torch._inductor.*"
)
def test_compiled_bf16_training_learns(make_context: MakeContext) -> None:
    plain = {
        "mixup": 0,
        "cutmix": 0,
        "auto_augment": None,
        "random_erasing": 0,
        "hflip": 0,
        "scale": [0.8, 1],
    }
    context, recorder = on_gpu(
        make_context(**plain, epochs=8, lr=5e-3, precision="bf16", compile=True)
    )
    result = run(context)
    assert result.metrics[0].value > 30  # chance is 10
    assert not any("uncompiled" in event.text for event in recorder.events)


def test_out_of_memory_names_what_to_change(make_context: MakeContext) -> None:
    context, _ = on_gpu(make_context(epochs=1, batch_size=100, model="cat_base", img_size=1120))
    taken = torch.empty(torch.cuda.mem_get_info()[0] - 3 * 2**30, dtype=torch.uint8, device=GPU)
    with pytest.raises(
        JobError, match=r"cuda:0: out of memory with 100 images of 1120 x 1120 .* raise accumulate"
    ):
        run(context)
    del taken


def test_actions_on_gpus_are_read_one_update_later(tmp_path: Path) -> None:
    dist.init_process_group(
        "nccl", init_method=f"file://{tmp_path}/group", rank=0, world_size=1, device_id=GPU
    )
    try:
        actions = [Action.NONE, Action.STOP]
        reductions = [ActionReduction.start(action, GPU) for action in actions]
        assert [reduction.result() for reduction in reductions] == actions
    finally:
        dist.destroy_process_group()
    assert (
        Coordinator(CheckpointEvery(epochs=1), should_stop=lambda: True, device=GPU).after(1)
        is Action.STOP
    )
