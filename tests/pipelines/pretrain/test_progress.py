"""The state of an unfinished epoch in a checkpoint: each rank's share, the scaler, skipped updates
and broken images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.amp.grad_scaler import GradScaler

from pipelines.pretrain.checkpoint import load_state, save_state
from pipelines.pretrain.epoch import Epoch
from pipelines.pretrain.progress import Progress, Share, joint_digest
from tests.pipelines.pretrain.conftest import MakeContext
from tests.pipelines.pretrain.epoch.test_updates import started

SHARES = (Share(3.0, "a"), Share(5.0, "b"))


def test_each_rank_continues_with_its_own_share() -> None:
    progress = Progress(num_updates=4, shares=SHARES)
    assert tuple(progress.share_of(rank, world_size=2) for rank in range(2)) == SHARES
    assert Progress().share_of(1, world_size=2) == Share()


@pytest.mark.parametrize("world_size", [1, 3, 4])
def test_group_size_change_keeps_the_mean_over_ranks(world_size: int) -> None:
    shares = [
        Progress(shares=SHARES).share_of(rank, world_size=world_size) for rank in range(world_size)
    ]
    assert sum(share.loss_sum for share in shares) / world_size == pytest.approx(4.0)
    assert {share.samples_sha256 for share in shares} == {joint_digest(SHARES)}


def test_sample_digest_depends_on_the_order() -> None:
    digests = {
        Share().seeing([1, 2]).seeing([3]).samples_sha256,
        Share().seeing([2, 1]).seeing([3]).samples_sha256,
        Share().seeing([1, 3]).seeing([3]).samples_sha256,
        Share().seeing([3]).samples_sha256,
        joint_digest(SHARES),
        joint_digest(SHARES[::-1]),
    }
    assert len(digests) == 6


def test_checkpoint_holds_the_scale_of_the_loss(make_context: MakeContext, tmp_path: Path) -> None:
    context, _ = make_context(epochs=1)
    trainer = started(context).trainer
    grown, fresh = (GradScaler("cpu", init_scale=scale) for scale in (512.0, 4.0))
    save_state(tmp_path / "state", Progress(), replace(trainer, scaler=grown))
    load_state(tmp_path / "state", replace(trainer, scaler=fresh))
    assert fresh.get_scale() == 512.0


def test_checkpoint_holds_all_of_the_progress(make_context: MakeContext, tmp_path: Path) -> None:
    context, _ = make_context(epochs=1)
    trainer = started(context).trainer
    progress = Progress(
        (), 2, SHARES, skipped_updates=1, trained_s=3.0, waited_s=0.5, broken=("train/1/a.png",)
    )
    save_state(tmp_path / "state", progress, trainer)
    assert load_state(tmp_path / "state", trainer) == progress


def test_resumed_epoch_keeps_its_counters(make_context: MakeContext) -> None:
    context, _ = make_context(epochs=1, mixup=0, cutmix=0)
    before = Progress(
        (),
        2,
        (Share(8.0, "a"),),
        skipped_updates=1,
        trained_s=30.0,
        waited_s=15.0,
        broken=("a.png",),
    )
    training = replace(started(context), clock=lambda: 0.0)
    progress = Epoch(training, before).run()
    (record,) = progress.epochs
    assert record.skipped_updates == 1
    assert progress.broken == ("a.png",)
    assert record.images_per_s == 3 * 40 / 30.0
    assert record.data_wait == 50.0
    # one of the three updates was skipped; the loss of the last one equals chance among ten classes
    assert record.loss == pytest.approx((8.0 + 2.3) / 2, abs=0.2)
    assert torch.isfinite(torch.tensor(record.lr))
