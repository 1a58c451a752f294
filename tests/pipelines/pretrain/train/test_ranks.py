"""Two gloo ranks train one model like one rank does, and count every validation image once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.contract import StageContext
from pipelines.pretrain.params import PretrainParams
from pipelines.pretrain.train import run
from tests.pipelines.pretrain.conftest import MakeContext
from tests.pipelines.ranks import run_ranks

CHANGES = {
    **{"mixup": 0, "cutmix": 0, "drop_path_rate": 0, "random_erasing": 0, "precision": "fp32"},
    **{"epochs": 2, "batch_size": 40, "accumulate": 2, "max_broken_images": 3},
}


def run_rank(rank: int, params: PretrainParams, root: Path) -> None:
    reports: list[dict[str, Any]] = []
    texts: list[str] = []
    work_dir = root / f"rank{rank}"
    work_dir.mkdir()
    result = run(
        StageContext(
            params=params,
            inputs={},
            seed=0,
            device="cpu",
            rank=rank,
            world_size=2,
            work_dir=work_dir,
            resume_dir=None,
            report=lambda metrics, checkpoint_dir: reports.append(
                {**metrics, "has_dir": checkpoint_dir is not None}
            ),
            save=lambda checkpoint_dir: None,
            should_stop=lambda: False,
            emit=lambda event: texts.append(event.text),
        )
    )
    torch.save(
        {"reports": reports, "texts": texts, "num_samples": result.metrics[0].num_samples},
        root / f"rank{rank}.pt",
    )


@pytest.fixture
def broken_image(data: Path) -> Any:
    """One broken image of val, which only one of the ranks meets."""
    image = min((data / "val/7").iterdir())
    content = image.read_bytes()
    image.write_bytes(content[:200])
    yield image
    image.write_bytes(content)


@pytest.mark.usefixtures("broken_image")
def test_two_ranks_train_as_one_and_count_each_image_once(
    make_context: MakeContext, tmp_path: Path
) -> None:
    alone_context, alone = make_context(**CHANGES)
    run(alone_context)
    run_ranks(run_rank, tmp_path, alone_context.params, tmp_path)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    assert [rank["num_samples"] for rank in ranks] == [29, 29]
    assert [[report.pop("has_dir") for report in rank["reports"]] for rank in ranks] == [
        [True] * 2,
        [False] * 2,
    ]
    assert ranks[0]["reports"] == ranks[1]["reports"]
    assert " broken images 1: " in ranks[0]["texts"][-1]  # found by the other rank
    for report, expected in zip(ranks[0]["reports"], alone.metrics, strict=True):
        # The loss of the second epoch comes from weights that the gradients of both ranks updated.
        assert report["loss"] == pytest.approx(expected["loss"], rel=1e-4)
