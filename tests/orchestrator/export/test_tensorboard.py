"""Event files hold every point once, and a resumed training replaces what came after."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event

from orchestrator.artifact import Manifest, Metric
from orchestrator.export.tensorboard import EventFiles
from orchestrator.history import Curve, StageHistory

Point = tuple[str, int, float]


def history(**curves: Mapping[float, float]) -> dict[str, StageHistory]:
    """A stage `train` whose points were logged at ten times their `done`."""
    return {
        "train": StageHistory(
            curves={
                name: Curve(
                    array("d", points),
                    array("d", points.values()),
                    array("d", (10 * done for done in points)),
                )
                for name, points in curves.items()
            }
        )
    }


def manifest() -> Manifest:
    return Manifest(
        key="a" * 64,
        stage="train",
        kind="pretrain",
        recipe={},
        params={},
        artifacts={},
        metrics=(Metric(name="top1", value=81.5, num_samples=100),),
        provenance={"finished_at_s": 1234.0},
    )


def events(folder: Path) -> Iterator[Any]:
    """The events of all files of the folder, oldest file first: TFRecords without checks."""
    for path in sorted(folder.glob("events.out.tfevents.*"), key=lambda path: path.stat().st_mtime):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            yield Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]


def points(folder: Path) -> list[Point]:
    return [
        (value.tag, event.step, round(value.simple_value, 4))
        for event in events(folder)
        for value in event.summary.value
    ]


def test_every_point_and_the_final_metrics_are_written(tmp_path: Path) -> None:
    with EventFiles(tmp_path) as files:
        files.write(history(loss={1: 3.0, 2: 2.0}), {"train": manifest()})
    assert points(tmp_path / "train") == [
        ("loss", 1, 3.0),
        ("loss", 2, 2.0),
        ("final/top1", 0, 81.5),
    ]
    assert (files.num_points, files.num_stages) == (3, 1)


def test_points_have_the_time_of_their_logging(tmp_path: Path) -> None:
    with EventFiles(tmp_path) as files:
        files.write(history(loss={1: 3.0, 2: 2.0}), {})
    times = [event.wall_time for event in events(tmp_path / "train") if event.summary.value]
    assert times == [10.0, 20.0]


def test_a_second_write_adds_only_new_points(tmp_path: Path) -> None:
    with EventFiles(tmp_path) as files:
        files.write(history(loss={1: 3.0}), {"train": manifest()})
        files.write(history(loss={1: 3.0, 2: 2.0}), {"train": manifest()})
    assert points(tmp_path / "train") == [
        ("loss", 1, 3.0),
        ("final/top1", 0, 81.5),
        ("loss", 2, 2.0),
    ]


def test_fractions_of_an_epoch_are_thousandths(tmp_path: Path) -> None:
    with EventFiles(tmp_path) as files:
        files.write(history(loss={0.25: 3.0, 1: 2.0}), {})
    assert points(tmp_path / "train") == [("loss", 250, 3.0), ("loss", 1000, 2.0)]


@pytest.mark.parametrize("resumed_at", [1, 2])
def test_what_a_resumed_training_replaces_is_purged(tmp_path: Path, resumed_at: int) -> None:
    first = {float(done): float(done) for done in range(1, 6)}
    with EventFiles(tmp_path) as files:
        files.write(history(loss=first), {})
        kept = {done: value for done, value in first.items() if done <= resumed_at}
        files.write(history(loss={**kept, resumed_at + 1.0: 70.0}), {})
    starts = [event.step for event in events(tmp_path / "train") if event.HasField("session_log")]
    assert starts[-1] == 1
    assert points(tmp_path / "train")[-1] == ("loss", resumed_at + 1, 70.0)
