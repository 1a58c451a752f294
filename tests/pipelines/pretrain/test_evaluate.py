"""Evaluations of real classifiers give the scores that training published, in any setup; misfits
are reported."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch

from cat_model import CONFIGS, Cat, from_reference
from orchestrator.artifact import Metric
from orchestrator.contract import StageContext
from orchestrator.errors import CheckpointError, DataError
from pipelines.imagenet.folders import load_index
from pipelines.imagenet.transforms import eval_transform
from pipelines.pretrain import measure
from pipelines.pretrain.evaluate import run
from pipelines.pretrain.kind import KIND
from pipelines.pretrain.measure import NUM_BATCHES, count_multiply_adds, count_params
from pipelines.pretrain.train import run as train
from tests.cat_model.golden import load_vector
from tests.pipelines.pretrain.conftest import TOY, MakeContext, as_evaluation
from tests.pipelines.ranks import run_ranks

SCORES = ("top1", "top5")


@dataclass(frozen=True)
class Trained:
    """A finished stage in bf16, whose scores are better than chance and not perfect."""

    params: dict[str, Any]
    checkpoint: Path
    metrics: tuple[Metric, ...]


@pytest.fixture
def trained(make_context: MakeContext, broken_image: None) -> Trained:
    plain = {
        "mixup": 0,
        "cutmix": 0,
        "auto_augment": None,
        "random_erasing": 0,
        "hflip": 0,
        "scale": [0.8, 1],
    }
    params = {**plain, "epochs": 4, "lr": 5e-3, "precision": "bf16"}
    context, _ = make_context(**params)
    result = train(context)
    return Trained(params, result.outputs["checkpoint"], _scores(result.metrics))


@pytest.fixture
def broken_image(data: Path) -> Iterator[None]:
    """One image of val cannot be decoded; one rank of two meets it."""
    image = min((data / "val/7").iterdir())
    content = image.read_bytes()
    image.write_bytes(content[:200])
    yield
    image.write_bytes(content)


@pytest.fixture
def evaluation(make_context: MakeContext, trained: Trained) -> Callable[..., StageContext]:
    """The context of an evaluation of `trained`, optionally with other params and another
    checkpoint."""

    def make(
        *,
        checkpoint: Path | None = None,
        details: Mapping[str, Any] = MappingProxyType({}),
        **changes: Any,
    ) -> StageContext:
        context, _ = make_context(**{**trained.params, **changes})
        return as_evaluation(context, checkpoint or trained.checkpoint, **details)

    return make


Evaluation = Callable[..., StageContext]


def _scores(metrics: tuple[Metric, ...]) -> tuple[Metric, ...]:
    return tuple(metric for metric in metrics if metric.name in SCORES)


def test_scores_equal_those_published_by_training(trained: Trained, evaluation: Evaluation) -> None:
    context = evaluation()
    result = run(context)
    assert KIND.evaluation is not None
    assert tuple(metric.name for metric in result.metrics) == KIND.evaluation.metrics(
        context.params
    )
    assert _scores(result.metrics) == trained.metrics
    assert 10 < trained.metrics[0].value < 100
    assert trained.metrics[0].num_samples == 29
    assert tuple(result.outputs) == KIND.evaluation.outputs


@pytest.mark.parametrize(
    "changes", [{"batch_size": 2}, {"loader_workers": 1}, {"batch_size": 4096}, {"epochs": 1}]
)
def test_loading_settings_do_not_change_scores(
    trained: Trained, evaluation: Evaluation, changes: dict[str, Any]
) -> None:
    assert _scores(run(evaluation(**changes)).metrics) == trained.metrics


def _never(metrics: Mapping[str, float], checkpoint_dir: Path | None) -> None:
    raise AssertionError("an evaluation has no progress to commit")


def _evaluate_rank(rank: int, context: StageContext) -> None:
    work_dir = context.work_dir / str(rank)
    work_dir.mkdir()
    told: list[str] = []
    here = replace(
        context,
        rank=rank,
        world_size=2,
        work_dir=work_dir,
        emit=lambda event: told.append(event.text),
    )
    result = run(here)
    lines = [
        f"{metric.name} {metric.value!r} {metric.num_samples}" for metric in _scores(result.metrics)
    ]
    (work_dir / "scores.txt").write_text("\n".join(lines))
    assert rank == 0 or not any(work_dir.rglob("details"))
    assert bool(told) == (rank == 0)


def test_two_workers_split_val_with_equal_results(trained: Trained, evaluation: Evaluation) -> None:
    context = replace(evaluation(batch_size=41), report=_never, emit=print, should_stop=bool)
    run_ranks(_evaluate_rank, context.work_dir, context)
    expected = [
        f"{metric.name} {metric.value!r} {metric.num_samples}" for metric in trained.metrics
    ]
    for rank in range(2):
        assert (context.work_dir / str(rank) / "scores.txt").read_text().splitlines() == expected
    alone, together = run(evaluation()).outputs["details"], context.work_dir / "0/outputs/details"
    for name in ("per_class.json", "confusion.json", "confusion.png"):
        assert (together / name).read_bytes() == (alone / name).read_bytes()
    painted = [
        sorted(path.name for path in (folder / "painted").iterdir()) for folder in (together, alone)
    ]
    assert len(painted[0]) == 8
    assert painted[0] == painted[1]


def test_details_cover_classes_images_and_confusion(
    trained: Trained, evaluation: Evaluation
) -> None:
    details = run(evaluation(details={"predictions": True, "num_painted": 3})).outputs["details"]
    rows = json.loads((details / "per_class.json").read_text())["classes"]
    top1, top5 = trained.metrics
    assert [row["class"] for row in rows] == list("0123456789")
    assert sum(row["num_images"] for row in rows) == 29  # one image of class 7 cannot be decoded
    for name, metric in (("top1", top1), ("top5", top5)):
        assert sum(row[name] * row["num_images"] for row in rows) / 29 == pytest.approx(
            metric.value
        )
    confusion = json.loads((details / "confusion.json").read_text())
    hits = sum(count for true, guess, count in confusion["counts"] if true == guess)
    assert 100 * hits / 29 == pytest.approx(top1.value)
    with (details / "predictions.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert sum(line["class"] == line["guess1"] for line in lines) == hits
    assert [line["image"].split("/")[-2] for line in lines] == [line["class"] for line in lines]
    assert sum(float(lines[0][f"probability{number}"]) for number in range(1, 6)) <= 1.001
    assert len(list((details / "painted").iterdir())) == 3


def test_size_and_speed_are_reported_with_the_scores(evaluation: Evaluation) -> None:
    context = evaluation()
    metrics = {metric.name: metric for metric in run(context).metrics}
    assert metrics["params_m"].unit == "M"
    assert metrics["flops_g"].unit == "G"
    assert metrics["images_per_s_fp32"].unit == metrics["images_per_s_bf16"].unit == "images/s"
    assert metrics["params_m"].num_samples is None
    assert metrics["images_per_s_bf16"].num_samples == 3 * 64
    assert all(metric.value > 0 for metric in metrics.values())


@pytest.mark.parametrize(
    ("name", "params_m", "flops_g"),
    [("cat_tiny", 16.9, 2.8), ("cat_small", 37.3, 6.1), ("cat_base", 51.5, 8.9)],
)
def test_params_and_multiply_adds_match_the_published_sizes(
    name: str, params_m: float, flops_g: float
) -> None:
    with torch.device("meta"):
        model = Cat(CONFIGS[name], num_classes=1000)
    assert round(count_params(model) / 1e6, 1) == params_m
    assert round(count_multiply_adds(model, img_size=224) / 1e9, 1) == flops_g


def test_evaluation_needs_only_val(
    evaluation: Evaluation, trained: Trained, data: Path, tmp_path: Path
) -> None:
    shutil.copytree(data / "val", tmp_path / "only/val")
    context = evaluation(data=str(tmp_path / "only"))
    assert KIND.evaluation is not None
    assert KIND.evaluation.fingerprint(context.params) == KIND.evaluation.fingerprint(
        evaluation().params
    )
    assert _scores(run(context).metrics) == trained.metrics
    with pytest.raises(DataError, match=r"nowhere/val: the data folder is missing"):
        KIND.evaluation.fingerprint(evaluation(data="/nowhere").params)


def test_network_that_differs_from_the_jobs_is_named(evaluation: Evaluation) -> None:
    with pytest.raises(
        CheckpointError,
        match=(
            r"holds a different network than the job's model: embed_dim 8 instead of 16; correct "
            r"`model`"
        ),
    ):
        run(evaluation(model={**TOY, "embed_dim": 16}))


def test_dropout_is_ignored_in_the_network_comparison(
    evaluation: Evaluation, trained: Trained
) -> None:
    assert _scores(run(evaluation(drop_path_rate=0.5)).metrics) == trained.metrics


def test_other_classes_are_named_and_counted(
    evaluation: Evaluation, data: Path, tmp_path: Path
) -> None:
    shutil.copytree(data / "val", tmp_path / "other/val")
    (tmp_path / "other/val/9").rename(tmp_path / "other/val/nine")
    shutil.copytree(tmp_path / "other/val/nine", tmp_path / "other/val/ten")
    with pytest.raises(
        CheckpointError,
        match=(
            r"its 10 classes differ from the data's 11: only in the checkpoint: 9; only in the "
            r"data: "
            r"nine, ten"
        ),
    ):
        run(evaluation(data=str(tmp_path / "other")))


def test_folder_without_a_classifier_is_reported(evaluation: Evaluation, tmp_path: Path) -> None:
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd/cat.pth").write_text("hello")
    with pytest.raises(
        CheckpointError,
        match=r"cannot read a classifier: .*cat\.pth: is text, which begins 'hello'; give",
    ):
        run(evaluation(checkpoint=tmp_path / "odd"))


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Cat]:
    """A folder with CAT-T of ten classes in the official layout, and the reference's own
    network."""
    vector = load_vector("cat_tiny_224")
    state = vector.state_dict()
    state = {
        name: tensor[:10] if name.startswith("head.") else tensor for name, tensor in state.items()
    }
    folder = tmp_path_factory.mktemp("official")
    torch.save({"model": state}, folder / "cat_tiny_new.pth")
    model = from_reference({**vector.kwargs, "num_classes": 10}, state)
    assert isinstance(model, Cat)
    return folder, model.eval()


def test_official_file_from_outside_is_evaluated(
    official: tuple[Path, Cat],
    make_context: MakeContext,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(NUM_BATCHES, "cpu", (0, 1))
    monkeypatch.setattr(measure, "BATCH_SIZE", 1)  # 64 images of 224 pixels in bf16 take a minute
    folder, reference = official
    context, _ = make_context(model="cat_tiny")
    metrics = run(as_evaluation(context, folder)).metrics
    index = load_index(data, "val", tuple("0123456789"))
    transform = eval_transform(img_size=224, crop_pct=0.875, interpolation="bicubic")
    with torch.no_grad():
        images = [transform((index.root / path).read_bytes()) for path in index.paths]
        best = reference(torch.stack(images)).argmax(dim=1).tolist()
    hits = sum(guess == label for guess, label in zip(best, index.labels, strict=True))
    assert metrics[0] == Metric(name="top1", value=100 * hits / 30, num_samples=30)


def test_official_file_of_another_size_is_refused(
    official: tuple[Path, Cat], make_context: MakeContext, data: Path, tmp_path: Path
) -> None:
    folder, _ = official
    context, _ = make_context(model="cat_small")
    with pytest.raises(
        CheckpointError,
        match=r"embed_dim 64 instead of 96, num_heads \[2, 4, 8, 16\] instead of \[3, 6",
    ):
        run(as_evaluation(context, folder))
    shutil.copytree(data / "val", tmp_path / "fewer/val")
    shutil.rmtree(tmp_path / "fewer/val/9")
    context, _ = make_context(model="cat_tiny", data=str(tmp_path / "fewer"))
    with pytest.raises(CheckpointError, match=r"checkpoint: has 10 classes, but the data have 9"):
        run(as_evaluation(context, folder))
