"""What a page shows: the paper's job with curves, a lost attempt, details and a failure."""

from __future__ import annotations

import io
import json
from array import array
from dataclasses import replace
from pathlib import Path

from PIL import Image

from orchestrator.artifact import Artifact, File
from orchestrator.history import (
    AttemptHistory,
    Curve,
    Histories,
    RunSpan,
    StageHistory,
    StageState,
)
from orchestrator.report import Origin, audits_of, make_cells, published_rows
from orchestrator.report.content import ReportContent
from tests.orchestrator.report.paper import load_paper, manifests

MEASURED = """
  measured:
    kind: evaluate
    of: pretrain
"""
KEYS = {"pretrain": "a" * 64, "scenes": "b" * 64, "search": "c" * 64, "measured": "d" * 64}
CODE = {"sha256": "e" * 64, "commit": "f" * 40, "is_dirty": False}


def page_content(folder: Path, *overrides: str) -> ReportContent:
    """A pretraining that lost an attempt, scenes that failed, an evaluation with details."""
    job = load_paper(folder, "pretrain.expect={top1: '>= 81'}", *overrides, more=MEASURED)
    trained = manifests({"pretrain": 50_000})["pretrain"]
    provenance = {"run_id": "20261101T000000-1", "code": CODE, "workers": 8}
    recipe = {"data": "9" * 64, "inputs": {}}
    checkpoint = Artifact(files=(File(path="model.safetensors", sha256="7" * 64, size=9),))
    found = {
        "pretrain": trained.model_copy(
            update={
                "provenance": provenance,
                "recipe": recipe,
                "artifacts": {"checkpoint": checkpoint},
                "params": {"lr": 0.001, "epochs": 300},
            }
        )
    }
    found["measured"] = found["pretrain"].model_copy(
        update={
            "key": KEYS["measured"],
            "stage": "measured",
            "kind": "evaluate",
            "recipe": {
                "data": "9" * 64,
                "inputs": {"checkpoint": {"key": KEYS["pretrain"], "output": "checkpoint"}},
            },
        }
    )
    return ReportContent(
        job=job,
        manifests=found,
        cells=make_cells(job, found, rows=published_rows()),
        audits=audits_of(job, found),
        searches=(),
        origin=Origin("s3://bucket/paper", "20261102T000000-2", "orchestrator run paper.yaml", {}),
        states={
            "pretrain": StageState("reused"),
            "scenes": StageState("failed", "loss is NaN at iteration 120; lower `lr`"),
            "measured": StageState("done"),
            "search": StageState("waiting"),
        },
        histories=Histories(
            {KEYS["pretrain"]: training_history()},
            (
                RunSpan("20261101T000000-1", 1000, 5000),
                RunSpan("20261102T000000-2", 90000, 91000),
            ),
        ),
        keys=KEYS,
        details={"measured": details()},
        rows=published_rows(),
    )


def training_history() -> StageHistory:
    epochs = array("d", range(1, 301))
    return StageHistory(
        attempts=[
            AttemptHistory("20261101T000000-1", 1, 1100, 2000, 1, "lost a worker"),
            AttemptHistory("20261101T000000-1", 2, 2100, 4900, 100),
        ],
        curves={
            "loss": Curve(epochs, array("d", (7 / (1 + 0.1 * epoch) for epoch in epochs)), epochs),
            "top1": Curve(epochs, array("d", (81.5 - 60 / epoch for epoch in epochs)), epochs),
            "lr": Curve(epochs, array("d", (1e-3 * (1 - epoch / 301) for epoch in epochs)), epochs),
        },
        total=300,
    )


def details() -> dict[str, bytes]:
    classes = [
        {"class": "cat", "top1": 90.0, "num_images": 50},
        {"class": "dog", "top1": 70.0, "num_images": 40},
        {"class": "eel", "top1": None, "num_images": 0},
    ]
    confusion = {
        "counted": "images",
        "classes": ["cat", "dog", "eel"],
        "counts": [[0, 0, 45], [0, 1, 5], [1, 1, 28], [1, 0, 12]],
    }
    return {
        "per_class.json": json.dumps({"unit": "%", "classes": classes}).encode(),
        "confusion.json": json.dumps(confusion).encode(),
        "painted/val_1.jpg": picture((1200, 600)),
    }


def picture(size: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    Image.effect_noise(size, 80).convert("RGB").save(file, "JPEG")
    return file.getvalue()


def finished(content: ReportContent) -> ReportContent:
    """The same without the stages that did not finish."""
    stages = {name: content.job.stages[name] for name in ("pretrain", "measured")}
    cells = tuple(cell for cell in content.cells if cell.stage in stages)
    states = {name: content.states[name] for name in stages}
    job = replace(content.job, stages=stages)
    return replace(content, job=job, cells=cells, states=states)
