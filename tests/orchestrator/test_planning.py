"""A plan reads each data set, file and config only once for all stages, and reports each fault
once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.contract import Params
from orchestrator.errors import DataError
from orchestrator.planning import read_digests
from orchestrator.spec import load_job
from orchestrator.store.outside import digest_outside
from pipelines import KINDS
from pipelines.data import files
from tests.pipelines.openmmlab.harness import write_ade20k, write_coco

STAGE = "  {name}: {{kind: pretrain, data: {data}, epochs: 1, batch_size: 2, seed: {seed}{more}}}\n"


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders that are walked, in order."""
    walked: list[str] = []
    walk = files._walk

    def counted(root: Path, top: str) -> files.Listing:
        walked.append(f"{root.name}/{top}")
        return walk(root, top)

    monkeypatch.setattr(files, "_walk", counted)
    return walked


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            (tmp_path / "data" / split / name / "a.jpg").write_bytes(b"a")
    return tmp_path / "data"


def digests(folder: Path, stages: str) -> dict[str, str]:
    path = folder / "job.yaml"
    path.write_text(f"name: many\nstore: ./store\nstages:\n{stages}")
    job = load_job(path, kinds=KINDS, published={}, overrides=(), base_dir=folder)
    return {name: found.data for name, found in read_digests(job, job.stages).items()}


def stages(num: int, data: str, more: str = "") -> str:
    return "".join(
        STAGE.format(name=f"p{seed}", data=data, seed=seed, more=more) for seed in range(num)
    )


def test_data_set_is_read_once_for_all_its_stages(data: Path, walks: list[str]) -> None:
    found = digests(data.parent, stages(20, "data"))
    assert len(set(found.values())) == 1
    assert walks == ["data/train", "data/val"]


def test_evaluations_and_searches_share_the_read_data(data: Path, walks: list[str]) -> None:
    measured = "".join(f"  e{seed}: {{kind: evaluate, of: p{seed}}}\n" for seed in range(3))
    searches = "".join(
        (
            f"  s{seed}: {{kind: tune, of: p{seed}, space: {{lr: {{uniform: [0.1, 0.2]}}}}, "
            f"num_trials: 2}}\n"
        )
        for seed in range(3)
    )
    found = digests(data.parent, stages(3, "data") + measured + searches)
    assert walks == ["data/train", "data/val", "data/val"]
    assert len(set(found.values())) == 2


def test_stages_with_other_classes_are_checked_separately(data: Path) -> None:
    text = stages(2, "data") + STAGE.format(
        name="three", data="data", seed=0, more=", num_classes: 3"
    )
    with pytest.raises(DataError) as caught:
        digests(data.parent, text)
    assert str(caught.value).startswith("stages.three: ")
    assert "num_classes is 3" in str(caught.value)


def test_fault_of_the_data_is_found_and_reported_once(data: Path, walks: list[str]) -> None:
    (data / "train/cat/b.jpg").symlink_to("gone")
    with pytest.raises(DataError) as caught:
        digests(data.parent, stages(5, "data"))
    assert str(caught.value).count("\n") == 0
    assert walks == ["data/train"]


def test_file_from_outside_is_read_once(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def counted(location: str) -> str:
        read.append(location)
        return digest_outside(location)

    monkeypatch.setattr("orchestrator.planning.digest_outside", counted)
    (data.parent / "w.pth").write_bytes(b"w")
    digests(data.parent, stages(5, "data", ", weights: ./w.pth"))
    assert read == [f"{data.parent}/w.pth"]


def test_unexpected_file_system_error_is_a_data_error(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError(5, "Input/output error", "/data/disk")

    monkeypatch.setattr("pipelines.imagenet.layouts.open_images", broken)
    with pytest.raises(
        DataError, match=r"^stages\.p0: /data/disk: cannot be read: Input/output error$"
    ):
        digests(data.parent, stages(2, "data"))


def _params(name: str, root: Path) -> dict[str, Any]:
    match name:
        case "pretrain":
            return {"data": str(root / "data")}
        case "detection":
            data = write_coco(root / "coco", num_train=1, num_val=1)
            return {"data": str(data), "method": "mask_rcnn", "backbone": "p.checkpoint"}
    return {
        "data": str(write_ade20k(root / "ade20k", num_train=1, num_val=1)),
        "method": "upernet",
        "backbone": "p.checkpoint",
    }


@pytest.mark.parametrize("is_evaluation", [False, True])
@pytest.mark.parametrize("name", KINDS)
def test_fingerprint_depends_only_on_its_declared_fields(
    data: Path, name: str, is_evaluation: bool
) -> None:
    kind, read = KINDS[name], set[str]()
    assert kind.evaluation is not None
    known = (kind.evaluation.params or kind.params) if is_evaluation else kind.params

    class Noted(known):  # type: ignore[misc, valid-type]
        def __getattribute__(self, field: str) -> Any:
            read.add(field)
            return super().__getattribute__(field)

    params: Params = Noted(**_params(name, data.parent))
    read.clear()
    (kind.evaluation.fingerprint if is_evaluation else kind.fingerprint)(params)
    assert "data" in read
    assert read & known.model_fields.keys() <= known.fingerprinted
