"""A stage's context and tiny data sets for tests that really train."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cat_model import Cat, CatConfig, save_classifier
from orchestrator.artifact import Metric
from orchestrator.contract import Event, Kind, Params, StageContext, StageResult

PX = 64
CLASSES = ("red", "blue")
COLOURS = ((220, 40, 40), (40, 40, 220))


@dataclass
class Recorder:
    """Keeps the reports and checkpoints of a stage. Moves the checkpoints away, as a cluster
    does."""

    root: Path
    events: list[Event] = field(default_factory=list)
    metrics: list[dict[str, float]] = field(default_factory=list)
    checkpoints: list[Path | None] = field(default_factory=list)
    """The checkpoint of each report."""
    saved: list[Path] = field(default_factory=list)
    """All checkpoints, also those between reports."""
    stops_after: int | None = None
    """Asks to stop after this many updates of the attempt."""
    dies_after: int | None = None
    num_asked: int = 0
    is_slow: bool = False
    """Leaves checkpoints where they were written, as a cluster does until they are uploaded."""

    def report(self, metrics: Mapping[str, float], checkpoint_dir: Path | None) -> None:
        if checkpoint_dir is not None:
            self.save(checkpoint_dir)
        self.metrics.append(dict(metrics))
        self.checkpoints.append(self.saved[-1] if checkpoint_dir is not None else None)

    def save(self, checkpoint_dir: Path) -> None:
        kept = self.root / "saved" / checkpoint_dir.name
        if self.is_slow:
            shutil.copytree(checkpoint_dir, kept, dirs_exist_ok=True)
        else:
            shutil.move(checkpoint_dir, kept)
        self.saved.append(kept)

    def should_stop(self) -> bool:
        self.num_asked += 1
        if self.num_asked == self.dies_after:
            raise KilledError
        return self.num_asked == self.stops_after


class KilledError(BaseException):
    """Simulates the kill of the process."""


def make_context(
    recorder: Recorder,
    params: Params,
    backbone_dir: Path,
    *,
    resume_dir: Path | None = None,
    rank: int = 0,
) -> StageContext:
    work_dir = recorder.root / f"work{rank}"
    work_dir.mkdir(parents=True)
    return StageContext(
        params=params,
        inputs={"backbone": backbone_dir},
        seed=3,
        device="cpu",
        rank=rank,
        world_size=1,
        work_dir=work_dir,
        resume_dir=resume_dir,
        report=recorder.report,
        save=recorder.save,
        should_stop=recorder.should_stop,
        emit=recorder.events.append,
    )


def save_toy_checkpoint(directory: Path, *, img_size: int = 56) -> Path:
    torch.manual_seed(0)
    config = CatConfig(img_size=img_size, embed_dim=16, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8))
    save_classifier(directory, Cat(config, num_classes=3), classes=["a", "b", "c"])
    return directory


def write_coco(
    root: Path, *, num_train: int = 8, num_val: int = 3, has_polygons: bool = True
) -> Path:
    """Writes scenes of two coloured squares, with boxes and, optionally, polygons."""
    for split, num in (("train", num_train), ("val", num_val)):
        rng = np.random.default_rng(len(split))
        document: dict[str, list[dict[str, Any]]] = {
            "images": [],
            "annotations": [],
            "categories": [],
        }
        document["categories"] = [
            {"id": 7 + label, "name": name} for label, name in enumerate(CLASSES)
        ]
        folder = root / f"{split}2017"
        folder.mkdir(parents=True)
        for image_id in range(num):
            pixels, corners = _scene(rng)
            name = f"{image_id:03d}.png"
            Image.fromarray(pixels).save(folder / name)
            document["images"].append(
                {"id": image_id, "file_name": name, "width": PX, "height": PX}
            )
            document["annotations"] += [
                _instance(image_id, label, corner, len(document["annotations"]) + label + 1)
                for label, corner in enumerate(corners)
            ]
        if not has_polygons:
            for box in document["annotations"]:
                del box["segmentation"]
        path = root / "annotations" / f"instances_{split}2017.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(document))
    return root


def write_ade20k(root: Path, *, num_train: int = 8, num_val: int = 3) -> Path:
    """Writes the same scenes with label maps: 0 unlabeled border, 1 red, 2 blue, 3 background."""
    for split, num in (("training", num_train), ("validation", num_val)):
        rng = np.random.default_rng(len(split))
        for part in ("images", "annotations"):
            (root / part / split).mkdir(parents=True)
        for number in range(num):
            pixels, corners = _scene(rng)
            labels = np.full((PX, PX), 3, np.uint8)
            for label, (x, y, side) in enumerate(corners, 1):
                labels[y : y + side, x : x + side] = label
            labels[0] = 0
            Image.fromarray(pixels).save(root / "images" / split / f"{number:03d}.png")
            Image.fromarray(labels).save(root / "annotations" / split / f"{number:03d}.png")
    (root / "classes.json").write_text(json.dumps([*CLASSES, "background"]))
    return root


def _scene(
    rng: np.random.Generator,
) -> tuple[np.ndarray[Any, np.dtype[np.uint8]], list[tuple[int, int, int]]]:
    pixels = rng.integers(90, 120, (PX, PX, 3)).astype(np.uint8)
    corners = []
    for place, colour in enumerate(COLOURS):
        side = int(rng.integers(16, 28))
        x, y = (
            int(rng.integers(0, PX // 2 - 28 + 1)) + place * PX // 2,
            int(rng.integers(0, PX - side)),
        )
        pixels[y : y + side, x : x + side] = colour
        corners.append((x, y, side))
    return pixels, corners


def _instance(
    image_id: int, label: int, corner: tuple[int, int, int], annotation_id: int
) -> dict[str, Any]:
    x, y, side = corner
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": 7 + label,
        "bbox": [x, y, side, side],
        "area": side * side,
        "iscrowd": 0,
        "segmentation": [[x, y, x + side, y, x + side, y + side, x, y + side]],
    }


def evaluation_params(kind: Kind, params: Params, **fields: Any) -> Params:
    """The evaluation params for a stage of `kind` with `params`, with `fields` replaced."""
    assert kind.evaluation is not None
    assert kind.evaluation.params is not None
    return kind.evaluation.params(**{**params.model_dump(), **fields})


def scores_of(result: StageResult) -> dict[str, float]:
    """The scores on val by name, without the size of the network."""
    return {
        metric.name: metric.value for metric in result.metrics if metric.num_samples is not None
    }


def on_val(result: StageResult) -> tuple[Metric, ...]:
    """The metrics of the model, which do not depend on a clock."""
    return tuple(metric for metric in result.metrics if metric.split == "val")


def contents(folder: Path) -> dict[str, bytes]:
    """The content of every file below `folder`, by its path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
