"""A fraction of each class: its images, that it is the same in every layout, and how it is
shuffled."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.imagenet.folders import Index
from pipelines.imagenet.layouts import load_classes, open_images
from pipelines.imagenet.shard.__main__ import main
from pipelines.imagenet.shard.source import SHARDS_IN_SHUFFLE
from pipelines.imagenet.source import ImageSource, sample_key
from pipelines.imagenet.subset import take_fraction

SIZES = {"cat": 40, "dog": 21, "emu": 3}
"""Images of train by class; val has one of each."""
FRACTIONS = st.floats(min_value=1e-6, max_value=1)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Files that contain their own names, which have capitals in the suffix and dots before it."""
    for split, sizes in (("train", SIZES), ("val", dict.fromkeys(SIZES, 1))):
        for name, size in sizes.items():
            (tmp_path / "tree" / split / name).mkdir(parents=True)
            for number in range(size):
                path = tmp_path / "tree" / split / name / f"{name}.{number:02d}.JPEG"
                path.write_bytes(path.name.encode())
    return tmp_path / "tree"


Opened = Callable[[str], ImageSource]


@pytest.fixture
def opened(root: Path, tmp_path: Path) -> Opened:
    """Train in one of the layouts; a class map knows its classes only by number."""

    def opened(layout: str) -> ImageSource:
        images = open_images(
            str({"folders": lambda: root, "class map": mapped, "shards": sharded}[layout]())
        )
        return images.source("train", load_classes(images, num_classes=len(SIZES)))

    def mapped() -> Path:
        folder = tmp_path / "map"
        folder.mkdir()
        for split in ("train", "val"):
            (folder / split).symlink_to(root / split)
            paths = sorted((root / split).glob("*/*"), reverse=True)
            lines = [
                f"{path.relative_to(root / split)}\t{sorted(SIZES).index(path.parent.name)}\n"
                for path in paths
            ]
            (folder / f"{split}_map.txt").write_text("".join(lines))
        return folder

    def sharded() -> Path:
        assert main([str(root), str(tmp_path / "shards"), "--images-per-shard", "2"]) == 0
        return tmp_path / "shards"

    return opened


def contents(source: ImageSource) -> list[bytes]:
    return [source.read(place) for place in range(len(source))]


def flat(num_images: int) -> Index:
    """Images of two classes in turn, which exist only in memory."""
    paths = tuple(f"train/{number}.png" for number in range(num_images))
    return Index(
        Path("/nowhere"), ("even", "odd"), paths, tuple(number % 2 for number in range(num_images))
    )


def test_each_class_gives_its_fraction_or_one_image(opened: Opened) -> None:
    train = opened("folders")
    assert Counter(take_fraction(train, 0.2).labels) == {0: 8, 1: 4, 2: 1}
    assert Counter(take_fraction(train, 0.75).labels) == {0: 30, 1: 16, 2: 2}
    assert Counter(take_fraction(train, 1e-6).labels) == {0: 1, 1: 1, 2: 1}


@given(FRACTIONS, FRACTIONS)
def test_smaller_fraction_is_part_of_a_larger_one(one: float, other: float) -> None:
    smaller, larger = (
        set(take_fraction(flat(30), fraction).names) for fraction in sorted((one, other))
    )
    assert smaller <= larger


def test_labels_names_and_images_belong_together(opened: Opened) -> None:
    part = take_fraction(opened("folders"), 0.3)
    assert len(part) == len(part.labels) == len(part.names) == 19
    for place, (name, label, key) in enumerate(
        zip(part.names, part.labels, part.sample_keys(), strict=True)
    ):
        assert part.read(place) == Path(name).name.encode()
        assert part.classes[label] == Path(name).parent.name
        assert key == sample_key(name)
    assert part.names[2:5:2] == [part.names[2], part.names[4]]


def test_fraction_has_the_same_images_in_every_layout(opened: Opened) -> None:
    images = {
        name: sorted(contents(take_fraction(opened(name), 0.2)))
        for name in ("folders", "class map", "shards")
    }
    assert len(images["folders"]) == 13
    assert images["folders"] == images["class map"] == images["shards"]


def test_choice_of_images_is_fixed() -> None:
    """A different choice under the same Key would give a different result, so it needs a new
    version of the kind."""
    names = [Path(name).stem for name in take_fraction(flat(24), 0.25).names]
    assert names == ["2", "5", "6", "17", "18", "23"]


def test_images_with_equal_keys_are_taken_in_order() -> None:
    """Keys can be equal in shards whose writer numbers the images of each shard from the start."""
    source = Index(
        Path("/nowhere"), ("cat", "dog"), ("a.jpg", "b.jpg", *["same.jpg"] * 8), (0, 0, *[1] * 8)
    )
    assert list(take_fraction(source, 0.5).labels).count(1) == 4


def test_fraction_of_1_is_the_source_itself(opened: Opened) -> None:
    train = opened("folders")
    assert take_fraction(train, 1.0) is train


def test_fraction_keeps_the_order_of_the_whole_epoch(opened: Opened) -> None:
    """Shards are then read few at a time: each block gives its part of the fraction."""
    train = opened("shards")
    part = take_fraction(train, 0.5)
    order = [part.names[place] for place in part.shuffled(np.random.default_rng(3))]
    whole = [train.names[place] for place in train.shuffled(np.random.default_rng(3))]
    assert sorted(order) == sorted(part.names)
    assert order == [name for name in whole if name in set(part.names)]
    first_block = {name.partition("/")[0] for name in whole[: 2 * SHARDS_IN_SHUFFLE]}
    is_first = [name.partition("/")[0] in first_block for name in order]
    assert is_first == sorted(is_first, reverse=True)


def test_fraction_pickles_with_open_files(opened: Opened) -> None:
    part = take_fraction(opened("shards"), 0.5)
    content = part.read(5)
    copy = pickle.loads(pickle.dumps(part))
    assert copy.read(5) == content
    assert copy.names[5] == part.names[5]
    assert copy.labels == part.labels
