"""Two real commands that train in turns."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.stamps import read_stamps
from benchmarks.turns import Player, play, processes_below, rates


def _player(folder: Path, name: str, iterations: int, *, fails_at: int = 0) -> Player:
    (folder / name).mkdir()
    return Player(
        "tests.benchmarks.tiny_training",
        [str(iterations), str(fails_at)],
        folder / name,
        iterations,
    )


def test_players_take_turns_and_both_finish(tmp_path: Path) -> None:
    first, second = _player(tmp_path, "first", 300), _player(tmp_path, "second", 450)
    play(first, second)
    assert len(first.turns) == len(second.turns) > 1
    for worker, other in ((first, second), (second, first)):
        stamps = read_stamps(worker.folder)
        assert [stamp.loss for stamp in stamps[:20]] == [0.5**number for number in range(20)]
        assert len(stamps) == worker.iterations
        for turn in other.turns:
            # The margins allow for signals that arrive late, at the start and the end of a turn.
            inside = [
                stamp for stamp in stamps if turn.start_s + 0.1 < stamp.time_s < turn.end_s - 0.3
            ]
            assert not inside
    assert all(rate is None or rate > 0 for rate in rates(first))
    assert any(rates(first))


def test_a_failing_command_ends_the_benchmark_and_its_rival(
    tmp_path: Path,
) -> None:
    first, second = _player(tmp_path, "first", 1000), _player(tmp_path, "second", 1000, fails_at=30)
    with pytest.raises(SystemExit, match=r"exit code 1 before its last iteration\nno more"):
        play(first, second)
    assert first._process is not None
    assert first._process.wait(timeout=600) == -signal.SIGKILL


def test_all_descendants_of_a_process_are_found() -> None:
    sleeps = (
        "import subprocess, sys, time; subprocess.run([sys.executable, '-c', 'import time; "
        "time.sleep(60)'])"
    )
    process = subprocess.Popen([sys.executable, "-c", f"{sleeps}  # a name (with brackets"])
    try:
        while not (found := processes_below(process.pid)):
            time.sleep(0.05)
        assert len(found) == 1
    finally:
        for pid in found:
            subprocess.run(["kill", "-9", str(pid)], check=True)
        process.wait()
