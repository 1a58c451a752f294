"""The sample's data sets: splits that share no scan, and labels that agree with each other."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pycocotools.coco import COCO

from pipelines.sample.drawing import OUTLINE_INK, Placed, outline
from pipelines.sample.folder import Size, write_sample
from pipelines.sample.layouts import ADE20K_SPLITS, scene_files
from pipelines.sample.scans import Split, load_scans, split_scans

# pycocotools 2.0.11 does not yet know NumPy 2's `copy` argument; its result is right.

SPLITS: tuple[Split, Split] = ("train", "val")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sample")
    write_sample(root, Size(train_scenes=12, val_scenes=8, scans_per_class=10))
    return root


def coco_of(root: Path, split: Split) -> Any:
    return COCO(str(root / f"coco/annotations/instances_{split}2017.json"))


def label_map(root: Path, split: Split, name: str) -> NDArray[np.uint8]:
    return np.asarray(Image.open(root / "ade20k/annotations" / ADE20K_SPLITS[split] / name))


def scans_shown(root: Path, split: Split) -> set[str]:
    """Hashes of the scans in any of the data sets."""
    document = json.loads((root / f"coco/annotations/instances_{split}2017.json").read_bytes())
    indices = {annotation["scan"] for annotation in document["annotations"]}
    indices |= {int(path.stem) for path in (root / "imagenet" / split).rglob("*.png")}
    scans = load_scans()
    return {hashlib.sha256(scans[index].ink.tobytes()).hexdigest() for index in indices}


def test_no_scan_is_in_both_splits(root: Path) -> None:
    train, val = scans_shown(root, "train"), scans_shown(root, "val")
    assert len(train) == 80
    assert len(val) == 20
    assert not train & val


def test_whole_sample_splits_every_scan_once() -> None:
    scans = load_scans()
    splits = split_scans(scans, scans_per_class=None)
    hashes = [
        hashlib.sha256(scan.ink.tobytes()).hexdigest() for split in SPLITS for scan in splits[split]
    ]
    assert len(hashes) == len(set(hashes)) == len(scans) == 1797
    assert {scan.digit for scan in splits["val"]} == set(range(10))


@pytest.mark.parametrize("split", SPLITS)
def test_coco_instances_fit_their_masks(root: Path, split: Split) -> None:
    coco = coco_of(root, split)
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == list("0123456789")
    for annotation in coco.loadAnns(coco.getAnnIds()):
        rows, columns = np.nonzero(coco.annToMask(annotation))
        x, y, width, height = annotation["bbox"]
        assert len(rows) == annotation["area"] > 50
        assert x - 1 <= columns.min() <= columns.max() <= x + width
        assert y - 1 <= rows.min() <= rows.max() <= y + height


@pytest.mark.parametrize("split", SPLITS)
def test_ade20k_labels_match_the_masks_of_the_same_scenes(root: Path, split: Split) -> None:
    coco = coco_of(root, split)
    for image in coco.loadImgs(coco.getImgIds()):
        expected = np.ones((128, 128), np.uint8)
        for annotation in coco.imgToAnns[image["id"]]:
            expected[coco.annToMask(annotation) == 1] = annotation["category_id"] + 1
        assert (label_map(root, split, image["file_name"]) == expected).all()
        scene = (root / f"coco/{split}2017" / image["file_name"]).read_bytes()
        assert (
            scene
            == (root / "ade20k/images" / ADE20K_SPLITS[split] / image["file_name"]).read_bytes()
        )


def test_ade20k_names_its_11_classes(root: Path) -> None:
    assert json.loads((root / "ade20k/classes.json").read_bytes()) == ["background", *"0123456789"]


def test_scenes_hold_two_to_five_digits_of_different_sizes() -> None:
    documents = [
        content
        for path, content in scene_files("train", load_scans(), 60)
        if path.endswith(".json")
    ]
    annotations = json.loads(documents[0])["annotations"]
    per_scene = np.bincount([annotation["image_id"] for annotation in annotations])[1:]
    heights = [annotation["bbox"][3] for annotation in annotations]
    assert len(per_scene) == 60
    assert set(per_scene) == {2, 3, 4, 5}
    assert min(heights) < 32
    assert max(heights) > 52


def test_outline_follows_the_ink() -> None:
    size = 48
    scan = next(scan for scan in load_scans() if scan.digit == 1)
    enlarged = Image.fromarray(scan.ink).resize((size, size), Image.Resampling.BICUBIC)
    inked = np.asarray(enlarged) >= OUTLINE_INK
    xs, ys = zip(
        *[(one[0::2], one[1::2]) for one in outline(Placed(scan, 10, 20, size))], strict=True
    )
    rows, columns = np.nonzero(inked)
    assert min(map(min, xs)) == pytest.approx(10 + columns.min(), abs=1)
    assert max(map(max, xs)) == pytest.approx(10 + columns.max() + 1, abs=1)
    assert min(map(min, ys)) == pytest.approx(20 + rows.min(), abs=1)
    assert max(map(max, ys)) == pytest.approx(20 + rows.max() + 1, abs=1)
