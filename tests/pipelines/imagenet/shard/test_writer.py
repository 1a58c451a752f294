"""The command that makes shards: same bytes each time, index last, and its errors."""

from __future__ import annotations

import hashlib
import json
import resource
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.imagenet.layouts import fingerprint
from pipelines.imagenet.shard import __main__ as command
from pipelines.imagenet.shard.__main__ import main
from pipelines.imagenet.shard.tar import key_of
from tests.pipelines.imagenet.shard.conftest import NUM_TRAIN, NUM_VAL, ShardSummary


def digests(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
    }


def test_two_runs_write_the_same_bytes(write: ShardSummary, tmp_path: Path) -> None:
    one, other = (digests(Path(write(str(tmp_path / name)))) for name in ("one", "other"))
    assert one == other
    assert len(one) == 20 + 5 + len(["classes.txt", "index.json"])


def test_shards_are_in_webdatasets_layout(local: Path) -> None:
    """Members of one key follow each other; `cls` holds the label as text."""
    with tarfile.open(local / "train-000000.tar") as tar:
        members = tar.getmembers()
        contents = [tar.extractfile(member).read() for member in members]  # type: ignore[union-attr]
    for image, label in zip(members[::2], members[1::2], strict=True):
        assert image.name == f"{key_of(image.name)}.png"
        assert label.name == f"{key_of(image.name)}.cls"
    assert [int(image) % 2 for image in contents[::2]] == [int(label) for label in contents[1::2]]
    assert (local / "classes.txt").read_text() == "even\nodd\n"


def test_index_locates_each_image(local: Path) -> None:
    document = json.loads((local / "index.json").read_text())
    shard = document["splits"]["train"][0]
    content = (local / shard["name"]).read_bytes()
    assert shard["size"] == len(content)
    assert shard["sha256"] == hashlib.sha256(content).hexdigest()
    cut = [
        content[at : at + size] for at, size in zip(shard["offsets"], shard["sizes"], strict=True)
    ]
    assert [int(Path(name).stem) for name in shard["members"]] == [int(image) for image in cut]


def test_finished_shards_are_not_written_again(
    tree: Path, local: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in local.iterdir()}
    capsys.readouterr()
    assert main([str(tree), str(local), "--images-per-shard", "4"]) == 0
    assert (
        capsys.readouterr().out
        == f"{local}: already complete: {NUM_TRAIN + NUM_VAL} images in 25 shards\n"
    )
    assert {path: path.stat().st_mtime_ns for path in local.iterdir()} == before


def test_progress_is_reported_for_each_shard(
    write: ShardSummary, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(str(tmp_path / "shards"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "train-000000.tar: 4 images, 0.0 MB; 1/25"
    assert lines[-2:] == [
        "val-000004.tar: 2 images, 0.0 MB; 25/25",
        f"{tmp_path}/shards: wrote 98 images in 25 shards",
    ]


def test_other_shards_are_not_overwritten(
    tree: Path, local: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tree), str(local), "--images-per-shard", "5"]) == 2
    assert (
        f"error: {local}: holds shards of other images or another shard size"
        in capsys.readouterr().err
    )
    (local / "index.json").unlink()
    assert main([str(tree), str(local)]) == 2
    assert (
        f"error: {local}: holds 25 tar files from another source; choose an empty location"
        in capsys.readouterr().err
    )


def test_interrupted_writer_leaves_no_index(
    place: str,
    tree: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = place.replace("shards", "again").replace("image", "again")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(command, "_report_shard", interrupt)
        assert main([str(tree), place, "--images-per-shard", "1"]) == 130
    assert "interrupted: the index was not written" in capsys.readouterr().err
    if "://" not in place:
        assert {path.name for path in Path(place).iterdir()} == {"train-000000.tar", "writing.json"}
    assert main([str(tree), place, "--images-per-shard", "90"]) == 0
    assert fingerprint(place, num_classes=2)
    if "://" not in place:
        wanted = {"train-000000.tar", "val-000000.tar", "classes.txt", "index.json"}
        assert {path.name for path in Path(place).iterdir()} == wanted


def test_ctrl_c_ends_the_command_without_a_traceback(tree: Path, tmp_path: Path) -> None:
    arguments = [str(tree), str(tmp_path / "shards"), "--images-per-shard", "1"]
    code = "import signal, sys, time; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "from pipelines.imagenet.shard import __main__ as command\n"
    code += "report = command._report_shard\n"
    code += "command._report_shard = lambda *shard: (report(*shard), time.sleep(600))\n"
    code += "sys.exit(command.main(sys.argv[1:]))"
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert "1/98" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert (
            process.stderr.read()
            == "interrupted: the index was not written; run the same command again\n"
        )
    assert process.returncode == 130
    assert not (tmp_path / "shards/index.json").exists()


def test_images_with_equal_keys_get_distinct_names(tree: Path, tmp_path: Path) -> None:
    for name in ("a.b.png", "a_b.png", "a_b.jpg"):
        (tree / "val/odd" / name).write_bytes(b"1")
    assert main([str(tree), str(tmp_path / "shards")]) == 0
    members = json.loads((tmp_path / "shards/index.json").read_text())["splits"]["val"][0][
        "members"
    ]
    assert {name for name in members if "a_b" in name} == {
        "odd/a_b.png",
        "odd/a_b__2.jpg",
        "odd/a_b__3.png",
    }


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ([], "error: give SRC and DST, or --index LOCATION"),
        (["nowhere", "shards"], "error: nowhere/train: the data folder is missing"),
        (
            ["here", "here/"],
            "error: here/: SRC and DST are the same; choose another DST",
        ),
        (
            ["--index", "nowhere"],
            "error: nowhere: holds no shards; put them in train/*.tar or train-*.tar",
        ),
    ],
)
def test_faults_are_reported_without_a_traceback(
    arguments: list[str],
    fault: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith(fault)


def test_unreadable_image_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "map"
    place.mkdir()
    (place / "train_map.txt").write_text("a.png 0\nb.png 1\n")
    (place / "val_map.txt").write_text("a.png 0\nb.png 1\n")
    (place / "a.png").write_bytes(b"a")
    assert main([str(place), str(tmp_path / "shards")]) == 2
    assert capsys.readouterr().err.endswith(".png: cannot be read: No such file or directory\n")
    assert not (tmp_path / "shards/index.json").exists()


def test_indexing_shards_gives_the_writers_index(
    place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = fingerprint(place, num_classes=2)
    assert main(["--index", place]) == 0
    assert capsys.readouterr().out.endswith(f"{place}/index.json: 98 images in 25 shards\n")
    assert fingerprint(place, num_classes=2) == before


def test_shard_that_cannot_be_indexed_is_named(
    local: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (local / "train-000002.tar").unlink()
    (local / "train-000002.tar").mkdir()
    assert main(["--index", str(local)]) == 2
    assert capsys.readouterr().err == (
        f"error: {local}/train-000002.tar: the shard cannot be read: Is a directory; "
        "copy it again\n"
    )


@pytest.fixture
def small_files() -> Iterator[None]:
    """This process cannot write files larger than 5000 bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("small_files")
def test_shard_that_cannot_be_written_is_named(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tree), str(tmp_path / "shards")]) == 2
    assert capsys.readouterr().err == (
        f"error: {tmp_path}/shards/train-000000.tar: cannot be written: File too large\n"
    )
    assert not (tmp_path / "shards/index.json").exists()
