"""Complete runs of the entry point in one process: learning, exact repetition and resumption,
broken data."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from cat_model.weights.load import load_classifier
from orchestrator.contract import StageContext, StageResult
from orchestrator.errors import CheckpointError, DataError, JobError, StageError
from pipelines.imagenet.broken import BrokenImages
from pipelines.imagenet.layouts import open_images
from pipelines.imagenet.transforms import eval_transform
from pipelines.pretrain.data import make_loaders
from pipelines.pretrain.kind import KIND
from pipelines.pretrain.precision import Precision
from pipelines.pretrain.scores import evaluate
from pipelines.pretrain.train import run
from tests.pipelines.pretrain.conftest import MakeContext

PLAIN = {
    "mixup": 0,
    "cutmix": 0,
    "auto_augment": None,
    "random_erasing": 0,
    "hflip": 0,
    "scale": [0.8, 1],
}


def values(result: StageResult) -> dict[str, float]:
    return {metric.name: metric.value for metric in result.metrics}


def weights(result: StageResult) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = load_file(result.outputs["checkpoint"] / "model.safetensors")
    return tensors


def assert_same_weights(one: StageResult, other: StageResult) -> None:
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_training_reduces_the_loss_and_learns(make_context: MakeContext) -> None:
    context, recorder = make_context(**PLAIN, epochs=8, lr=5e-3)
    result = run(context)
    assert recorder.metrics[-1]["loss"] < 0.8 * recorder.metrics[0]["loss"]
    assert values(result)["top1"] > 30  # chance is 10
    assert [metrics["epoch"] for metrics in recorder.metrics] == list(range(1, 9))
    assert recorder.events[-1].text.startswith("epoch 8/8 loss ")
    assert recorder.events[-1].done == 8
    assert recorder.events[-1].total == 8
    declared = KIND.metrics(context.params)
    assert tuple(metric.name for metric in result.metrics) == declared
    assert {name for metrics in recorder.metrics for name in metrics} <= {"epoch", *declared}
    assert values(result)["loss"] == recorder.metrics[-1]["loss"]
    slowest, fastest = (
        pick(event.metrics.get("images_per_s", 0) for event in recorder.events)
        for pick in (min, max)
    )
    assert slowest <= values(result)["images_per_s"] <= fastest


def test_same_seed_is_bitwise_equal_for_any_loader_workers(make_context: MakeContext) -> None:
    (one, records), (two, repeated), (three, differing) = (
        make_context(epochs=2, **changes) for changes in ({}, {"loader_workers": 1}, {"seed": 1})
    )
    first, second = run(one), run(two)
    assert repeated.metrics == records.metrics
    assert_same_weights(first, second)
    run(three)
    assert differing.metrics[0]["loss"] != records.metrics[0]["loss"]


def test_resumed_run_equals_the_uninterrupted_run_bitwise(make_context: MakeContext) -> None:
    """Uses the whole recipe: mixup, cutmix, drop path, augmentation."""
    straight_context, straight = make_context(epochs=3, warmup_epochs=0)
    straight_result = run(straight_context)
    stopped_context, stopped = make_context(epochs=3, warmup_epochs=0)
    with pytest.raises(KeyboardInterrupt):
        run(killed_after_first_report(stopped_context))
    resumed_context, resumed = make_context(epochs=3, warmup_epochs=0, resume_dir=stopped.kept_dir)
    resumed_result = run(resumed_context)
    assert stopped.metrics + resumed.metrics == straight.metrics
    assert_same_weights(resumed_result, straight_result)
    assert resumed_result.metrics[:2] == straight_result.metrics[:2]


def killed_after_first_report(context: StageContext) -> StageContext:
    """The same context, but its process is killed when its first checkpoint is committed."""

    def report(metrics: Any, checkpoint_dir: Path | None) -> None:
        context.report(metrics, checkpoint_dir)
        raise KeyboardInterrupt

    return replace(context, report=report)


def test_finished_state_gives_the_result_without_training(make_context: MakeContext) -> None:
    context, recorder = make_context(epochs=1)
    result = run(context)
    again_context, again = make_context(epochs=1, resume_dir=recorder.kept_dir)
    again_result = run(again_context)
    assert again.metrics == []
    assert again_result.metrics == result.metrics
    assert_same_weights(again_result, result)


def test_checkpoints_are_written_at_the_interval_and_the_end(make_context: MakeContext) -> None:
    context, recorder = make_context(**PLAIN, epochs=3, checkpoint_every=2)
    run(context)
    assert [metrics["epoch"] for metrics in recorder.metrics] == [1, 2, 3]
    assert recorder.saved == ["epoch_0002_update_000000", "epoch_0003_update_000000"]


def test_keep_best_writes_a_checkpoint_after_each_epoch(make_context: MakeContext) -> None:
    context, recorder = make_context(
        **PLAIN, epochs=2, checkpoint_every={"steps": 100}, keep_best=1
    )
    run(context)
    assert recorder.saved == ["epoch_0001_update_000000", "epoch_0002_update_000000"]


@pytest.mark.parametrize(
    "changes", [{}, {"crop_pct": 0.5}, {"interpolation": "nearest"}, {"img_size": 56}], ids=str
)
def test_val_images_are_resized_and_cropped_as_the_job_says(
    make_context: MakeContext, changes: dict[str, Any]
) -> None:
    context, _ = make_context(**changes)
    images = open_images(context.params.data)
    classes = tuple("0123456789")
    values = {"img_size": 28, "crop_pct": 0.875, "interpolation": "bicubic", **changes}
    expected = eval_transform(**values)(images.source("val", classes).read(0))
    batch = next(iter(make_loaders(context, images, classes).val))
    assert torch.equal(batch.images_BCHW[0], expected)


def test_published_classifier_has_the_reported_scores(make_context: MakeContext) -> None:
    context, _ = make_context(**PLAIN, epochs=2, precision="bf16")
    result = run(context)
    model, classes = load_classifier(result.outputs["checkpoint"])
    assert classes == tuple("0123456789")
    val = make_loaders(context, open_images(context.params.data), classes).val
    scores = evaluate(
        model, val, Precision("bf16", torch.device("cpu")), BrokenImages(Path(), limit=0)
    )
    assert values(result)["top1"] == scores.top1
    assert values(result)["top5"] == scores.top5
    assert scores.num_samples == 30 == result.metrics[0].num_samples
    assert scores.top5 >= scores.top1


@pytest.fixture
def broken_data(data: Path, tmp_path: Path) -> Path:
    """One broken image in train, one in val."""
    root = tmp_path / "broken"
    shutil.copytree(data, root)
    for folder in (root / "train/4", root / "val/7"):
        image = min(folder.iterdir())
        image.write_bytes(image.read_bytes()[:200])
    return root


def test_broken_images_are_skipped_counted_and_not_scored(
    make_context: MakeContext, broken_data: Path
) -> None:
    context, recorder = make_context(**PLAIN, data=str(broken_data), epochs=1, max_broken_images=2)
    result = run(context)
    assert result.metrics[0].num_samples == 29
    text = recorder.events[-1].text
    assert re.search(r" broken images 2: train/4/\d+\.png, val/7/\d+\.png$", text)


def test_too_many_broken_images_stop_the_stage_and_are_named(
    make_context: MakeContext, broken_data: Path
) -> None:
    context, _ = make_context(
        **PLAIN, data=str(broken_data), epochs=1, max_broken_images=1, loader_workers=1
    )
    with pytest.raises(
        DataError,
        match=r"2 images cannot be decoded.* is 1: train/4/\d+\.png, val/7/\d+\.png; replace",
    ):
        run(context)


@pytest.mark.parametrize("split", ["train", "val"])
def test_split_without_a_decodable_image_stops_the_stage(
    make_context: MakeContext, data: Path, tmp_path: Path, split: str
) -> None:
    shutil.copytree(data, tmp_path / "broken")
    for image in (tmp_path / "broken" / split).glob("*/*"):
        image.write_bytes(b"")
    context, recorder = make_context(
        **PLAIN, data=str(tmp_path / "broken"), epochs=1, max_broken_images=120
    )
    with pytest.raises(DataError, match=rf"^no image in {split}/ can be decoded; check the files$"):
        run(context)
    assert recorder.metrics == []


def test_nan_loss_stops_with_epoch_and_step(make_context: MakeContext) -> None:
    context, recorder = make_context(**PLAIN, epochs=1)
    run(context)
    weights_file = recorder.kept_dir / "model.safetensors"
    tensors = load_file(weights_file)
    save_file({name: tensor * float("nan") for name, tensor in tensors.items()}, weights_file)
    spoilt, _ = make_context(**PLAIN, epochs=2, resume_dir=recorder.kept_dir)
    with pytest.raises(
        StageError,
        match=r"epoch 2, step 1: the loss is nan; the .* is after epoch 1; lower lr",
    ):
        run(spoilt)


def test_state_of_another_model_is_refused(make_context: MakeContext) -> None:
    context, recorder = make_context(**PLAIN, epochs=1)
    run(context)
    other = {"embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "img_size": 28}
    changed, _ = make_context(**PLAIN, epochs=2, model=other, resume_dir=recorder.kept_dir)
    with pytest.raises(
        CheckpointError,
        match=r"the training state does not fit this stage(?s:.*)size mismatch",
    ):
        run(changed)


def test_truncated_state_is_refused(make_context: MakeContext) -> None:
    context, recorder = make_context(**PLAIN, epochs=1)
    run(context)
    state = recorder.kept_dir / "state.pt"
    state.write_bytes(state.read_bytes()[:500])
    resumed, _ = make_context(**PLAIN, epochs=2, resume_dir=recorder.kept_dir)
    with pytest.raises(CheckpointError, match=r"the training state does not fit"):
        run(resumed)


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        (
            {"precision": "fp16"},
            JobError,
            r"precision: fp16 needs a GPU; on CPUs set precision to fp32 or bf16",
        ),
        (
            {"batch_size": 42, "world_size": 4},
            JobError,
            r"batch_size = 42 is not a multiple of 8, which 4 workers",
        ),
        (
            {"batch_size": 400},
            DataError,
            r"train holds 120 images, fewer than batch_size = 400; lower batch_size",
        ),
        ({"num_classes": 1000}, DataError, r"holds 10 classes, but num_classes is 1000"),
        ({"data": "/nowhere"}, DataError, r"/nowhere/train: the data folder is missing"),
    ],
)
def test_misfits_are_reported_before_training(
    make_context: MakeContext, changes: dict[str, Any], error: type[Exception], text: str
) -> None:
    context, recorder = make_context(**changes)
    with pytest.raises(error, match=text):
        run(context)
    assert recorder.metrics == []
