"""Training on a fraction of train: all trials of a search use the same images, and val is
complete."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import pytest
from PIL import Image

from orchestrator.contract import StageContext
from orchestrator.errors import DataError
from orchestrator.recipe import recipe_audit
from pipelines.imagenet.layouts import open_images
from pipelines.pretrain import train
from pipelines.pretrain.data import Loaders, make_loaders
from tests.pipelines.pretrain.conftest import MakeContext, make_params

PLAIN = {"mixup": 0, "cutmix": 0, "auto_augment": None, "color_jitter": 0, "random_erasing": 0}
Colour = tuple[float, ...]


@pytest.fixture
def coloured(tmp_path: Path) -> str:
    """12 training images of each class and one of val, each with its own colour, which no crop
    changes."""
    for split, num_images in (("train", 12), ("val", 1)):
        for label, number in product(range(10), range(num_images)):
            path = tmp_path / "coloured" / split / str(label) / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (28, 28), (20 * label, 20 * number, 0)).save(path)
    return str(tmp_path / "coloured")


def loaders_of(context: StageContext) -> Loaders:
    return make_loaders(context, open_images(context.params.data), tuple("0123456789"))


def images_seen(context: StageContext) -> list[Colour]:
    """The colours of an epoch, in order."""
    return [
        tuple(image[:, 9, 9].tolist())
        for batch in loaders_of(context).train
        for image in batch.images_BCHW
    ]


def test_every_seed_has_the_same_images_in_its_own_order(
    make_context: MakeContext, coloured: str
) -> None:
    contexts = (
        make_context(**PLAIN, data=coloured, data_fraction=0.5, batch_size=60, seed=seed)[0]
        for seed in (0, 1)
    )
    one, other = map(images_seen, contexts)
    assert len(set(one)) == 60
    assert one != other
    assert sorted(one) == sorted(other)


def test_larger_fraction_includes_images_of_a_smaller_one(
    make_context: MakeContext, coloured: str
) -> None:
    sizes = ((0.25, 30), (0.5, 60))
    contexts = (
        make_context(**PLAIN, data=coloured, data_fraction=part, batch_size=size)[0]
        for part, size in sizes
    )
    smaller, larger = map(set, map(images_seen, contexts))
    assert len(smaller) == 30
    assert smaller < larger


def test_data_fraction_shortens_epochs_but_not_val(make_context: MakeContext) -> None:
    whole, part = (
        loaders_of(make_context(batch_size=10, data_fraction=part)[0]) for part in (1.0, 0.2)
    )
    assert whole.updates_per_epoch == 12
    assert part.updates_per_epoch == 2
    assert [sum(len(batch.labels_B) for batch in loaders.val) for loaders in (whole, part)] == [
        30,
        30,
    ]


def test_stage_trains_on_its_fraction(make_context: MakeContext) -> None:
    part, whole = (
        train.run(make_context(data_fraction=fraction, epochs=1, loader_workers=1)[0])
        for fraction in (0.4, 1.0)
    )
    assert _samples(part.outputs["log"]) != _samples(whole.outputs["log"])
    assert part.metrics[0].num_samples == whole.metrics[0].num_samples == 30


def _samples(log_dir: Path) -> str:
    """Digest of the order of the images in the only epoch."""
    [line] = (log_dir / "epochs.jsonl").read_text().splitlines()
    return str(json.loads(line)["samples_sha256"])


def test_fraction_smaller_than_a_batch_is_reported(make_context: MakeContext) -> None:
    context, _ = make_context(data_fraction=0.1)
    with pytest.raises(
        DataError,
        match=r"imagenet: train holds 120 images, of which data_fraction = 0.1 takes 10, fewer "
        r"than batch_size = 40; lower batch_size or raise data_fraction$",
    ):
        loaders_of(context)


def test_data_fraction_is_in_the_key_and_the_recipe_audit(tmp_path: Path) -> None:
    whole, part = make_params(tmp_path), make_params(tmp_path, data_fraction=0.2)
    assert whole.in_key()["data_fraction"] == 1.0
    assert recipe_audit(part)["data_fraction"].used == 0.2
    assert recipe_audit(part)["data_fraction"].reference == 1.0
    assert "data_fraction" not in recipe_audit(whole)
