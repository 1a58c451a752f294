"""Updates: parts of a batch, the average of the weights, NaN or infinite gradients, agreement of
ranks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from orchestrator.contract import StageContext
from orchestrator.errors import StageError, StoppedError
from pipelines.imagenet.dataset import Batch
from pipelines.imagenet.layouts import open_images
from pipelines.pretrain.data import make_loaders
from pipelines.pretrain.epoch import Epoch, EpochLoopState
from pipelines.pretrain.progress import Progress
from pipelines.pretrain.train import make_training, run
from pipelines.pretrain.trainer import Trainer
from pipelines.training.coordinator import Action, Coordinator
from pipelines.training.intervals import CheckpointEvery
from tests.pipelines.pretrain.conftest import MakeContext
from tests.pipelines.ranks import run_ranks

PLAIN = {
    "mixup": 0,
    "cutmix": 0,
    "auto_augment": None,
    "random_erasing": 0,
    "hflip": 0,
    "drop_path_rate": 0,
}
CLASSES = tuple("0123456789")
CPU = torch.device("cpu")


def started(context: StageContext) -> EpochLoopState:
    """The training of the context, before its first update."""
    loaders = make_loaders(context, open_images(context.params.data), CLASSES)
    return make_training(context, loaders, classes=CLASSES, device=CPU)


def flat_weights(trainer: Trainer) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in trainer.unwrapped.parameters()])


@pytest.mark.parametrize("accumulate", [2, 5])
def test_parts_of_a_batch_give_the_gradient_of_the_whole(
    make_context: MakeContext, accumulate: int
) -> None:
    gradients = []
    for parts in (1, accumulate):
        context, _ = make_context(**PLAIN, epochs=1, batch_size=40, accumulate=parts)
        training = started(context)
        batches = list(training.loaders.train)
        assert len(batches) == 3 * parts
        assert training.trainer.update(batches[:parts], 10) is not None
        gradients.append(
            torch.cat(
                [
                    p.grad.flatten()
                    for p in training.trainer.unwrapped.parameters()
                    if p.grad is not None
                ]
            )
        )
    assert gradients[0].norm() > 0.1
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


def test_average_of_the_weights_is_evaluated(make_context: MakeContext) -> None:
    context, _ = make_context(**PLAIN, epochs=1, ema_decay=0.75)
    trainer, loaders = (training := started(context)).trainer, training.loaders
    before = flat_weights(trainer)
    trainer.update([next(iter(loaders.train))], 10)
    average = torch.cat([parameter.flatten() for parameter in trainer.evaluated.parameters()])
    torch.testing.assert_close(average, 0.75 * before + 0.25 * flat_weights(trainer))
    assert not torch.equal(before, average)


def test_update_with_non_finite_gradients_is_skipped(make_context: MakeContext) -> None:
    context, _ = make_context(**PLAIN, epochs=1, non_finite="skip")
    trainer, loaders = (training := started(context)).trainer, training.loaders
    batch = next(iter(loaders.train))
    spoilt = batch._replace(images_BCHW=batch.images_BCHW * float("nan"))
    before = flat_weights(trainer)
    assert trainer.update([spoilt], 10) is None
    assert torch.equal(flat_weights(trainer), before)
    assert trainer.update([batch], 11) is not None
    assert not torch.equal(flat_weights(trainer), before)


def test_too_many_skipped_updates_stop_the_stage(make_context: MakeContext) -> None:
    context, _ = make_context(**PLAIN, epochs=1, non_finite="skip", max_skipped_updates=0)
    training = started(context)
    with torch.no_grad():
        next(training.trainer.unwrapped.parameters()).fill_(float("nan"))
    with pytest.raises(
        StageError,
        match=r"epoch 1, step 1: 1 updates had NaN or infinite gradients, .* = 0; the l",
    ):
        Epoch(training, Progress()).run()


@pytest.mark.parametrize(
    ("every", "times_s", "due"),
    [
        ({"epochs": 1}, [0, 0, 0, 0], []),
        ({"steps": 2}, [0, 0, 0, 0], [2, 4]),
        ({"minutes": 1.0}, [0, 59, 61, 100], [3]),
        ({"minutes": 0.5}, [0, 31, 60, 62], [2, 4]),
    ],
    ids=str,
)
def test_checkpoints_are_due_by_updates_or_by_the_clock(
    every: dict[str, Any], times_s: list[float], due: list[int]
) -> None:
    clock = iter(times_s)
    control = Coordinator(
        CheckpointEvery(**every), should_stop=lambda: False, device=CPU, clock=lambda: next(clock)
    )
    assert [n for n in range(1, 5) if control.after(n) is Action.SAVE] == due


def _stop_on_rank_one(rank: int, root: Path) -> None:
    asked = iter([False, rank == 1, False])
    control = Coordinator(CheckpointEvery(epochs=1), should_stop=lambda: next(asked), device=CPU)
    heard = [control.after(n).name for n in (1, 2, 3)]
    (root / f"heard{rank}").write_text(" ".join(heard))


def test_all_ranks_stop_after_the_same_update(tmp_path: Path) -> None:
    run_ranks(_stop_on_rank_one, tmp_path, tmp_path)
    assert [(tmp_path / f"heard{rank}").read_text() for rank in range(2)] == ["NONE STOP NONE"] * 2


def _clocks_of_two_ranks(rank: int, root: Path) -> None:
    """Rank 1 starts its clock a second later, so on that clock the minute ends one update after
    rank 0's."""
    clock = iter([rank, 60, 61, 62, 119, 120, 121])
    control = Coordinator(CheckpointEvery(minutes=1), lambda: False, CPU, clock=lambda: next(clock))
    saved = [number for number in range(7) if control.after(number) is Action.SAVE]
    (root / f"saved{rank}").write_text(str(saved))


def test_minutes_are_counted_by_one_clock(tmp_path: Path) -> None:
    run_ranks(_clocks_of_two_ranks, tmp_path, tmp_path)
    assert [(tmp_path / f"saved{rank}").read_text() for rank in range(2)] == ["[1, 5]"] * 2


@pytest.mark.parametrize(
    ("every", "keep_best", "due"),
    [
        ({"epochs": 2}, 0, [2, 4, 5]),
        ({"epochs": 2}, 1, [2, 4, 5]),
        ({"steps": 7}, 0, [5]),
        ({"steps": 7}, 1, [1, 2, 3, 4, 5]),
        ({"minutes": 1.0}, 3, [1, 2, 3, 4, 5]),
    ],
    ids=str,
)
def test_epoch_end_writes_a_checkpoint_with_keep_best(
    every: dict[str, Any], keep_best: int, due: list[int]
) -> None:
    control = Coordinator(CheckpointEvery(**every), lambda: False, CPU, keep_best)
    assert [epoch for epoch in range(1, 6) if control.is_epoch_due(epoch, num_epochs=5)] == due


def test_training_time_includes_waiting_but_not_writing(make_context: MakeContext) -> None:
    now_s = 0.0

    def passing(seconds: float) -> bool:
        nonlocal now_s
        now_s += seconds
        return False

    context, recorder = make_context(**PLAIN, epochs=1, checkpoint_every={"steps": 1})
    context = replace(
        context, save=lambda directory: None if passing(100) else recorder.save(directory)
    )
    training = started(context)
    training = replace(
        training,
        context=context,
        clock=lambda: now_s,
        coordinator=Coordinator(CheckpointEvery(steps=1), lambda: passing(2), CPU),
    )
    (record,) = Epoch(training, Progress()).run().epochs
    assert record.images_per_s == pytest.approx(40 / 2)
    assert record.data_wait == 0


def test_nan_weights_are_neither_saved_nor_published(make_context: MakeContext) -> None:
    context, recorder = make_context(**PLAIN, epochs=1, batch_size=120)
    training = started(context)
    spoilt: Any = next(training.trainer.unwrapped.parameters())
    spoilt.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(
        StageError,
        match="epoch 1, step 1: the gradient and the weights are NaN or infinite; the l",
    ):
        Epoch(training, Progress()).run()
    assert not recorder.metrics
    assert not recorder.saved


def test_update_uses_its_lr_and_a_clipped_gradient(make_context: MakeContext) -> None:
    context, _ = make_context(**PLAIN, clip_grad=0.01, layer_decay=0.5)
    trainer, loaders = (training := started(context)).trainer, training.loaders
    assert trainer.update([next(iter(loaders.train))], 2) is not None
    assert (
        max(group["lr"] for group in trainer.optimizer.param_groups)
        == trainer.schedule.lr(2)
        > 2e-6
    )
    gradients = [
        parameter.grad for parameter in trainer.unwrapped.parameters() if parameter.grad is not None
    ]
    assert torch.nn.utils.get_total_norm(gradients) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("is_on", [True, False])
def test_activation_checkpointing_and_channels_last_are_set(
    make_context: MakeContext, is_on: bool
) -> None:
    context, _ = make_context(activation_checkpointing=is_on, channels_last=is_on)
    unwrapped: Any = started(context).trainer.unwrapped
    assert {
        module.grad_checkpointing
        for module in unwrapped.modules()
        if hasattr(module, "grad_checkpointing")
    } == {is_on}
    assert (
        unwrapped.patch_embed.proj.weight.is_contiguous(memory_format=torch.channels_last) is is_on
    )


def draws_of(context: StageContext) -> list[float]:
    """The numbers that mixing would draw in the two updates of an epoch."""
    training = started(context)
    drawn: list[float] = []

    def augment(batch: Batch) -> torch.Tensor:
        drawn.append(float(np.random.rand()))
        return batch.images_BCHW

    training = replace(training, trainer=replace(training.trainer, augment=augment))
    Epoch(training, Progress()).run()
    return drawn


def test_each_update_and_each_rank_has_its_own_mixup_draws(make_context: MakeContext) -> None:
    context, _ = make_context(**PLAIN, batch_size=60)
    first, second = draws_of(context), draws_of(replace(context, rank=1))
    assert len({*first, *second}) == 4
    assert draws_of(context) == first


def test_stop_within_an_epoch_writes_a_checkpoint_first(make_context: MakeContext) -> None:
    context, recorder = make_context(**PLAIN, epochs=2, batch_size=20)
    recorder.stops_after = 8
    with pytest.raises(StoppedError, match="the last checkpoint is after epoch 1, update 2"):
        run(context)
    assert recorder.saved == ["epoch_0001_update_000000", "epoch_0001_update_000002"]
