"""A training that stopped between any two updates resumes to exactly the weights of the
uninterrupted one."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from orchestrator.contract import StageContext, StageResult
from orchestrator.errors import StoppedError
from pipelines.pretrain.params import PretrainParams
from pipelines.pretrain.train import run
from tests.pipelines.pretrain.conftest import MakeContext, Recorder
from tests.pipelines.pretrain.epoch.test_updates import started
from tests.pipelines.ranks import run_ranks
from tests.pipelines.training.other_thread import drawing_in_another_thread

WHOLE_RECIPE = {"epochs": 2, "warmup_epochs": 1, "batch_size": 20, "drop_path_rate": 0.2}
"""Params for 120 images: 6 updates per epoch, with mixup, cutmix, drop path and augmentation on."""
TIMES = ("images_per_s", "data_wait")


def weights(result: StageResult) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = load_file(result.outputs["checkpoint"] / "model.safetensors")
    return tensors


def log(result: StageResult) -> list[dict[str, Any]]:
    """The metric log without the fields that clocks determine."""
    lines = (result.outputs["log"] / "epochs.jsonl").read_text().splitlines()
    return [
        {name: value for name, value in json.loads(line).items() if name not in TIMES}
        for line in lines
    ]


def stopped_and_resumed(
    make_context: MakeContext, stops: list[int], **changes: Any
) -> tuple[StageResult, list[Any]]:
    """The result of attempts that each stop after the given number of updates, and all their
    reports."""
    reported: list[Any] = []
    resume_dir: Path | None = None
    for stop in stops:
        context, recorder = make_context(resume_dir=resume_dir, **changes)
        recorder.stops_after = stop
        with pytest.raises(
            StoppedError, match="stopped as requested; the last checkpoint is after"
        ):
            run(context)
        reported += recorder.metrics
        resume_dir = recorder.kept_dir
    context, recorder = make_context(resume_dir=resume_dir, **changes)
    result = run(context)
    return result, reported + recorder.metrics


@pytest.mark.parametrize(
    ("changes", "stops"),
    [
        ({}, [1, 4, 3]),
        ({}, [6, 1]),
        ({"accumulate": 2, "loader_workers": 1}, [2, 5]),
        ({"ema_decay": 0.9}, [5]),
        ({"precision": "bf16", "checkpoint_every": {"steps": 4}}, [3, 6]),
        ({"activation_checkpointing": True, "channels_last": True, "augmentation": "fast"}, [4]),
        ({"augmentation": "device", "non_finite": "skip"}, [4]),
    ],
    ids=str,
)
def test_stopping_after_any_update_changes_nothing(
    make_context: MakeContext, changes: dict[str, Any], stops: list[int]
) -> None:
    context, recorder = make_context(**WHOLE_RECIPE, **changes)
    straight = run(context)
    resumed, reported = stopped_and_resumed(make_context, stops, **WHOLE_RECIPE, **changes)
    assert all(
        torch.equal(tensor, weights(straight)[name]) for name, tensor in weights(resumed).items()
    )
    assert log(resumed) == log(straight)
    assert reported == recorder.metrics
    assert [record["epoch"] for record in log(resumed)] == [1, 2]


def test_draws_of_another_thread_do_not_change_weights(make_context: MakeContext) -> None:
    context, _ = make_context(**WHOLE_RECIPE)
    straight = run(context)
    context, _ = make_context(**WHOLE_RECIPE)
    with drawing_in_another_thread():
        disturbed = run(context)
    assert all(
        torch.equal(tensor, weights(straight)[name]) for name, tensor in weights(disturbed).items()
    )


class KilledError(BaseException):
    """The process was killed."""


def killed_at(context: StageContext, recorder: Recorder, *, num_saves: int) -> StageContext:
    """The same context, but its process is killed right after its checkpoint of that number is
    committed."""

    def save(checkpoint_dir: Path) -> None:
        recorder.save(checkpoint_dir)
        if len(recorder.saved) == num_saves:
            raise KilledError

    return replace(context, save=save)


def test_work_after_the_last_checkpoint_is_repeated_equally(make_context: MakeContext) -> None:
    changes = {**WHOLE_RECIPE, "checkpoint_every": {"steps": 5}}
    straight_context, _ = make_context(**changes)
    straight = run(straight_context)
    context, recorder = make_context(**changes)
    recorder.stops_after = None
    with pytest.raises(KilledError):
        run(killed_at(context, recorder, num_saves=2))
    assert recorder.saved == ["epoch_0000_update_000005", "epoch_0001_update_000004"]
    resumed_context, _ = make_context(**changes, resume_dir=recorder.kept_dir)
    resumed = run(resumed_context)
    assert all(
        torch.equal(tensor, weights(straight)[name]) for name, tensor in weights(resumed).items()
    )
    assert log(resumed) == log(straight)


def _run_straight_and_stopped(rank: int, params: PretrainParams, root: Path) -> None:
    """On this rank of three: an uninterrupted training, one that stops after its first update, and
    one that resumes from there."""
    results = []
    for name, stops_after, resume_dir in (
        ("straight", 0, None),
        ("stopped", 1, None),
        ("resumed", 0, root / "kept"),
    ):
        work_dir = root / f"{name}{rank}"
        work_dir.mkdir()
        recorder = Recorder(root / "kept", stops_after=stops_after)
        context = StageContext(
            params=params,
            inputs={},
            seed=0,
            device="cpu",
            rank=rank,
            world_size=3,
            work_dir=work_dir,
            resume_dir=resume_dir,
            report=lambda metrics, checkpoint_dir: None,
            save=recorder.save,
            should_stop=recorder.should_stop,
            emit=lambda event: None,
        )
        with contextlib.suppress(StoppedError):
            results.append(run(context))
        dist.barrier()
    if rank == 0:
        straight, resumed = map(weights, results)
        differing = [
            name for name, tensor in straight.items() if not torch.equal(tensor, resumed[name])
        ]
        (root / "differing.json").write_text(json.dumps(differing))


def test_three_ranks_resume_with_sums_in_the_same_order(
    make_context: MakeContext, tmp_path: Path
) -> None:
    """Two ranks sum to the same bits in any order. For three, DistributedDataParallel changes the
    order after its first update."""
    context, _ = make_context(epochs=1, batch_size=60, warmup_epochs=0, clip_grad=0.1)
    run_ranks(_run_straight_and_stopped, tmp_path, context.params, tmp_path, world_size=3)
    assert json.loads((tmp_path / "differing.json").read_text()) == []


def test_order_of_samples_depends_only_on_the_seed(make_context: MakeContext) -> None:
    digests = []
    for changes in ({}, {"lr": 1e-4}, {"seed": 1}):
        context, _ = make_context(**{**WHOLE_RECIPE, "epochs": 1}, **changes)
        digests.append(log(run(context))[0]["samples_sha256"])
    assert digests[0] == digests[1] != digests[2]


def test_resumed_training_uses_the_current_update_settings(make_context: MakeContext) -> None:
    context, recorder = make_context(**{**WHOLE_RECIPE, "epochs": 1}, fused_optimizer=True)
    run(context)
    changed, _ = make_context(**WHOLE_RECIPE, fused_optimizer=False, resume_dir=recorder.kept_dir)
    training = started(changed)
    assert training.checkpoints.load().epoch == 1
    assert {group["fused"] for group in training.trainer.optimizer.param_groups} == {None}


@pytest.mark.slow
def test_resume_proof_holds_for_kills_at_random_moments() -> None:
    command = [
        sys.executable,
        "-m",
        "pipelines.pretrain.prove_resume",
        "--kills",
        "1",
        "--epochs",
        "2",
    ]
    # The proof must not use a cluster from the environment.
    elsewhere = {
        **os.environ,
        "RAY_ADDRESS": "127.0.0.1:1",
    }
    proof = subprocess.run(
        command, env=elsewhere, capture_output=True, text=True, check=False, timeout=3600
    )
    assert proof.returncode == 0, proof.stdout + proof.stderr
    assert proof.stdout.count("killed worker") == 1
    assert proof.stdout.count("killing the driver") == 1
    assert "DIFFERENT" not in proof.stdout
