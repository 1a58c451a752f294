"""The sample folder: identical to the byte, completed, never overwritten, and refused with a
reason."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.errors import DataError
from pipelines.sample.__main__ import main
from pipelines.sample.folder import Size, write_sample

# pycocotools 2.0.11 does not yet know NumPy 2's `copy` argument; its result is right.

SIZE = Size(train_scenes=4, val_scenes=2, scans_per_class=5)


def digests(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


@pytest.fixture
def sample_dir(tmp_path: Path) -> Path:
    write_sample(tmp_path / "made", SIZE)
    return tmp_path / "made"


def test_two_runs_make_identical_trees(sample_dir: Path, tmp_path: Path) -> None:
    write_sample(tmp_path / "again", SIZE)
    assert digests(tmp_path / "again") == digests(sample_dir)
    # Scans, three files per scene, two documents, classes, the list.
    assert len(digests(sample_dir)) == 50 + 3 * 6 + 4


def test_complete_folder_is_not_changed(
    sample_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in sample_dir.rglob("*")}
    assert write_sample(sample_dir, SIZE).num_written == 0
    assert (
        main(
            [str(sample_dir), "--train-scenes", "4", "--val-scenes", "2", "--scans-per-class", "5"]
        )
        == 0
    )
    assert "complete already" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in sample_dir.rglob("*")} == before


def test_partial_folder_is_completed(sample_dir: Path) -> None:
    whole = digests(sample_dir)
    (sample_dir / "sample.json").unlink()
    (sample_dir / "coco/annotations/instances_val2017.json").unlink()
    broken = next((sample_dir / "imagenet/train/3").iterdir())
    broken.write_bytes(broken.read_bytes()[:100])
    assert write_sample(sample_dir, SIZE).num_written == 2
    assert digests(sample_dir) == whole


def test_sample_of_another_size_is_refused(sample_dir: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"made: holds a different sample, .*'train_scenes': 4.*choose another folder",
    ):
        write_sample(sample_dir, replace(SIZE, train_scenes=5))


def test_foreign_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sample.json").write_text("[1, 2]")
    with pytest.raises(DataError, match=r"sample\.json: not a list of sample files"):
        write_sample(tmp_path, SIZE)


def test_unwritable_folder_exits_2_with_a_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("not a folder")
    assert main([str(tmp_path / "file/below")]) == 2
    assert "file/below" in (text := capsys.readouterr().err)
    assert "cannot write the sample: Not a directory; choose a writable folder" in text


@pytest.mark.parametrize(
    "arguments", [["--train-scenes", "0"], ["--val-scenes", "x"], ["--scans-per-class", "4"]]
)
def test_invalid_sizes_are_refused(tmp_path: Path, arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path), *arguments])
