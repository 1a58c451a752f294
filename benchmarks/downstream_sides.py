"""The two sides of benchmarks.downstream_overhead, and the data that both train on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.command import run_module
from benchmarks.turns import Player
from orchestrator.artifact import Manifest
from orchestrator.store import open_store
from orchestrator.store.publish import fetch_artifact
from pipelines.sample.folder import Size, write_sample

BATCH_SIZE = 4
ONE_WORKER = {"workers": 1, "cpus_per_worker": 1}
PRETRAIN = {
    "kind": "pretrain",
    "model": {"embed_dim": 32, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8], "img_size": 56},
    "epochs": 1,
    "batch_size": 32,
    "warmup_epochs": 0,
    "loader_workers": 0,
    "resources": ONE_WORKER,
}
"""The quickstart's network: a small network shows overhead that a large one hides.

Its accuracy does not matter here.
"""
_COMMON = {
    "batch_size": BATCH_SIZE,
    "warmup_iters": 2,
    "clip_grad": 5.0,
    "img_scale": [128, 128],
    "flip_prob": 0.0,
    "channels": 32,
    "loader_workers": 0,
}


@dataclass(frozen=True)
class Ground:
    """What all rounds share: data, and a store with a pretrained network."""

    data: Path
    store: Path
    checkpoint: Path
    iterations: int


def prepare(scratch: Path, iterations: int) -> Ground:
    """Write the data and pretrain a network, once for all rounds.

    An epoch of the data has `iterations` iterations.
    """
    data, store = scratch / "data", scratch / "store"
    write_sample(data, Size(train_scenes=iterations * BATCH_SIZE, val_scenes=2, scans_per_class=20))
    _write_job(scratch / "pretrain.yaml", store, {"pretrain": _pretrain(data)})
    run_module("orchestrator", "run", str(scratch / "pretrain.yaml"))
    (path,) = store.glob("manifests/*.json")
    manifest = Manifest.from_json(path.read_bytes(), where=str(path))
    checkpoint = fetch_artifact(
        open_store(str(store)), manifest.artifacts["checkpoint"], scratch / "checkpoint"
    )
    return Ground(data, store, checkpoint, iterations)


def params_of(method: str, ground: Ground) -> dict[str, Any]:
    """The stage's kind and params. Validation and checkpoints happen once, at the end."""
    common = {**_COMMON, "method": method, "backbone": "pretrain.checkpoint"}
    if method == "semantic_fpn":
        ends = dict.fromkeys(("max_iters", "val_every", "checkpoint_every"), ground.iterations)
        own = {
            "crop_size": 128,
            "head_channels": 32,
            "ratio_range": [1.0, 1.0],
            "data": str(ground.data / "ade20k"),
        }
        return {"kind": "segmentation", **common, **own, **ends}
    return {"kind": "detection", **common, "epochs": 1, "data": str(ground.data / "coco")}


def our_player(scratch: Path, ground: Ground, method: str, number: int) -> Player:
    """A job whose pretraining is already in its store."""
    folder = _new_folder(scratch, f"{method}{number}-ours")
    store = folder / "store"
    shutil.copytree(ground.store, store)
    stage = {**params_of(method, ground), "resources": ONE_WORKER}
    _write_job(
        folder / "job.yaml", store, {"pretrain": _pretrain(ground.data), "downstream": stage}
    )
    command = ["run", str(folder / "job.yaml")]
    return Player("orchestrator", command, folder, ground.iterations, worker="ray::StageWorker")


def rival_player(scratch: Path, ground: Ground, method: str, number: int) -> Player:
    folder = _new_folder(scratch, f"{method}{number}-rival")
    params = params_of(method, ground)
    kind = params.pop("kind")
    settings = {
        "kind": kind,
        "params": params,
        "checkpoint": str(ground.checkpoint),
        "work_dir": str(folder),
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    return Player(
        "benchmarks.downstream_rival", [str(folder / "settings.json")], folder, ground.iterations
    )


SIDES: Mapping[str, Callable[[Path, Ground, str, int], Player]] = {
    "ours": our_player,
    "rival": rival_player,
}


def _new_folder(scratch: Path, name: str) -> Path:
    (scratch / name).mkdir()
    return scratch / name


def _write_job(path: Path, store: Path, stages: Mapping[str, Any]) -> None:
    """JSON is YAML: the job file is written as JSON."""
    path.write_text(json.dumps({"name": "overhead", "store": str(store), "stages": stages}))


def _pretrain(data: Path) -> dict[str, Any]:
    return {**PRETRAIN, "data": str(data / "imagenet")}
