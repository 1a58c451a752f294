"""What a worker prints is in the store: from all sources, when it is killed, without secrets."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray

from orchestrator.cluster.connection import connected
from orchestrator.cluster.log_capture import captured
from orchestrator.redaction import Redactor
from orchestrator.store import open_store
from orchestrator.store.log_tail import LogTail
from orchestrator.store.stage_logs import LogName, LogReader, LogSettings, LogWriter
from tests.orchestrator.cluster.talking import WAYS

FOLDER = LogName(None, 1, 0).folder("now", "pretrain")
SECRET = "open-sesame"
Talker = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def talker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Talker]:
    """Start a process that prints in every way, and then ends as `end` says."""
    monkeypatch.setenv("SOME_SECRET", SECRET)
    started: list[subprocess.Popen[str]] = []

    def start(store_uri: str, *, flush_s: float, end: str) -> subprocess.Popen[str]:
        module = "tests.orchestrator.cluster.talking"
        command = [sys.executable, "-m", module, store_uri, FOLDER, str(flush_s), end]
        started.append(
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def _stored(store_uri: str) -> str:
    return "".join(LogReader(open_store(store_uri), FOLDER).read())


def _await_stored(store_uri: str, text: str, timeout_s: float = 300) -> str:
    deadline_s = time.monotonic() + timeout_s
    while text not in (stored := _stored(store_uri)):
        assert time.monotonic() < deadline_s, stored
        time.sleep(0.1)
    return stored


def _is_complete(stored: str) -> bool:
    return all(stored.count(f"by {way}\n") == 1 for way in WAYS)


def test_killed_worker_leaves_all_lines_before_its_last_flush(
    talker: Talker, store_uri: str
) -> None:
    worker = talker(store_uri, flush_s=0.1, end="hang")
    stored = _await_stored(store_uri, "key ***")
    worker.send_signal(signal.SIGKILL)
    assert worker.wait() == -signal.SIGKILL
    assert _is_complete(stored)
    assert SECRET not in _stored(store_uri)


def test_last_lines_before_a_kill_reach_the_store_and_rays_log(
    talker: Talker, tmp_path: Path
) -> None:
    worker = talker(str(tmp_path), flush_s=600, end="kill")
    stored = _await_stored(str(tmp_path), "key ***")
    assert _is_complete(stored)
    assert worker.communicate()[1] == stored


@ray.remote(num_cpus=1)
class _Worker:
    def print_last(self, store_uri: str) -> None:
        self._block = captured(store_uri, FOLDER, LogSettings(flush_s=600), num_logs=1)
        self._block.__enter__()
        print("by an actor", flush=True)


def test_last_lines_of_a_worker_that_ray_kills_with_its_children_reach_the_store(
    cluster_address: str, tmp_path: Path
) -> None:
    with connected(cluster_address):
        worker = _Worker.remote()  # type: ignore[attr-defined]
        ray.get(worker.print_last.remote(str(tmp_path)))
        ray.kill(worker)
    _await_stored(str(tmp_path), "by an actor\n")


def test_error_is_the_last_text_and_later_output_is_not_captured(
    talker: Talker, tmp_path: Path
) -> None:
    assert talker(str(tmp_path / "bug"), flush_s=600, end="error").wait() == 1
    assert _stored(str(tmp_path / "bug")).endswith("ZeroDivisionError: a bug\n")
    out, copied = talker(str(tmp_path / "good"), flush_s=600, end="return").communicate()
    assert out == "outside\n"
    assert copied == _stored(str(tmp_path / "good"))


def test_text_that_the_end_of_a_stage_cannot_store_follows_when_the_store_is_back(
    talker: Talker, tmp_path: Path
) -> None:
    (tmp_path / "store").write_text("not a folder, so every write fails")
    assert talker(str(tmp_path / "store"), flush_s=600, end="return").wait() == 0
    (tmp_path / "store").unlink()
    assert _is_complete(_await_stored(str(tmp_path / "store"), "key ***"))


def test_stage_runs_without_a_log_if_that_cannot_be_kept(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(fd: int) -> int:
        raise OSError("too many open files")

    monkeypatch.setattr(os, "dup", fail)
    with captured(str(tmp_path), FOLDER, LogSettings(), num_logs=1):
        os.write(1, b"the stage\n")
    monkeypatch.undo()
    assert capfd.readouterr().out == "the stage\n"
    error = "is not kept in the store: OSError"
    assert caplog.messages == [f"the output of {FOLDER} {error}"]


def test_variable_that_the_job_names_is_redacted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHAT_URL", "https://host/path")
    settings = LogSettings(secret_names=frozenset({"CHAT_URL"}))
    with captured(str(tmp_path), FOLDER, settings, num_logs=1):
        os.write(1, b"to https://host/path\n")
    assert _stored(str(tmp_path)) == "to ***\n"


def test_trial_that_is_stopped_early_has_no_traceback(talker: Talker, tmp_path: Path) -> None:
    assert talker(str(tmp_path), flush_s=600, end="exit").wait() == 0
    assert "Traceback" not in _stored(str(tmp_path))


def test_fault_of_the_thread_is_shown_once_and_without_secrets(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_SECRET", SECRET)

    def fail(tail: LogTail, *, is_end: bool = False) -> None:
        raise KeyError(SECRET)

    monkeypatch.setattr(LogTail, "pump", fail)
    with captured(str(tmp_path), FOLDER, LogSettings(flush_s=0.01), num_logs=1):
        time.sleep(0.1)
    shown = capfd.readouterr().err
    assert shown.count("Traceback") == 1
    assert shown.endswith("KeyError: '***'\n")


@pytest.fixture
def output(tmp_path: Path) -> Iterator[int]:
    """The file that a worker prints to."""
    fd = os.open(tmp_path / "output", os.O_RDWR | os.O_APPEND | os.O_CREAT)
    yield fd
    os.close(fd)


def _tail(
    fd: int,
    store_uri: str,
    *,
    limit_bytes: int = 2**20,
    flush_s: float = 10,
    part_mb: float = 1,
) -> LogTail:
    settings = LogSettings(flush_s, part_mb)
    writer = LogWriter(open_store(store_uri), FOLDER, limit_bytes)
    return LogTail(fd, None, writer, settings, lambda: Redactor({SECRET}))


def test_output_waits_while_the_store_is_unreachable(output: int, tmp_path: Path) -> None:
    (tmp_path / "store").write_text("not a folder, so every write fails")
    tail = _tail(output, str(tmp_path / "store"), flush_s=1e-9)
    for number in range(3):
        os.write(output, f"line {number}\n".encode())
        tail.pump()
    (tmp_path / "store").unlink()
    tail.pump()
    note, *lines = _stored(str(tmp_path / "store")).splitlines()
    assert note.startswith("[orchestrator: the store was unreachable for ")
    assert lines == ["line 0", "line 1", "line 2"]


def test_endless_line_is_stored_in_parts_without_splitting_a_secret(
    output: int, tmp_path: Path
) -> None:
    tail = _tail(output, str(tmp_path / "store"), part_mb=100 / 2**20)
    os.write(output, f"{'x' * 95}{SECRET}{'y' * 100}".encode())
    tail.pump()
    assert tail.writer.num_parts == 1
    tail.pump(is_end=True)
    assert _stored(str(tmp_path / "store")) == f"{'x' * 95}***{'y' * 100}"


def test_much_output_at_once_stays_within_the_limit(output: int, tmp_path: Path) -> None:
    tail = _tail(output, str(tmp_path / "store"), limit_bytes=4000)
    os.write(output, b"".join(b"line %05d\n" % number for number in range(10_000)))
    tail.pump(is_end=True)
    store = open_store(str(tmp_path / "store"))
    assert sum(len(store.read(name) or b"") for name in store.names(FOLDER)) <= 4000
    first, *_, last = _stored(store.uri).splitlines()
    assert (first, last) == ("line 00000", "line 09999")
