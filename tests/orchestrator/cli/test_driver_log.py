"""The driver's log has its lines and Python's log records."""

from __future__ import annotations

import logging
import re
import time
from pathlib import Path

import pytest

from orchestrator.cli.driver_log import driver_log
from orchestrator.runs.record import record_name
from orchestrator.store import open_store
from orchestrator.store.stage_logs import LogReader, LogSettings, driver_folder


def _stored(store_uri: str) -> str:
    return "".join(LogReader(open_store(store_uri), driver_folder("now")).read())


def test_lines_and_log_records_are_stored_without_secrets(
    store_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_PASSWORD", "open-sesame")
    monkeypatch.setenv("CHAT_URL", "https://host/path")
    settings = LogSettings(secret_names=frozenset({"CHAT_URL"}))
    open_store(store_uri).write(record_name("now"), b"{}")
    with driver_log(open_store(store_uri), "now", settings) as log:
        log.add("one: sent to https://host/path")
        logging.getLogger("library").warning("with %s", "open-sesame")
        logging.getLogger("library").debug("not enabled")
    logging.getLogger("library").warning("after the run")
    line, record = _stored(store_uri).splitlines()
    assert line == "one: sent to ***"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d WARNING library: with \*\*\*", record)


def test_lines_wait_for_a_store_that_comes_back(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("not a folder, so every write fails")
    with driver_log(open_store(str(tmp_path / "store")), "now", LogSettings(flush_s=0.01)) as log:
        log.add("first")
        time.sleep(0.3)  # some writes fail
        log.add("second")
        (tmp_path / "store").unlink()
        open_store(str(tmp_path / "store")).write(record_name("now"), b"{}")
    assert _stored(str(tmp_path / "store")) == "first\nsecond\n"


def test_run_that_did_not_begin_leaves_no_folder(tmp_path: Path) -> None:
    with driver_log(open_store(str(tmp_path)), "now", LogSettings()) as log:
        log.add("a wrong setting")
    assert open_store(str(tmp_path)).names("runs") == []


class _Broken:
    def __str__(self) -> str:
        raise KeyError("broken")


def test_record_that_cannot_be_formatted_does_not_disturb_its_caller(tmp_path: Path) -> None:
    open_store(str(tmp_path)).write(record_name("now"), b"{}")
    library = logging.getLogger("library that prints nothing itself")
    library.addHandler(logging.NullHandler())
    library.propagate = False
    with driver_log(open_store(str(tmp_path)), "now", LogSettings()):
        library.warning("%s", _Broken())
        library.warning(_Broken())
    (line,) = _stored(str(tmp_path)).splitlines()
    assert line.endswith(f" WARNING {library.name}: %s")


def test_crash_is_the_last_text(tmp_path: Path) -> None:
    open_store(str(tmp_path)).write(record_name("now"), b"{}")
    with (
        pytest.raises(ZeroDivisionError),
        driver_log(open_store(str(tmp_path)), "now", LogSettings()),
    ):
        raise ZeroDivisionError("a bug")
    assert _stored(str(tmp_path)).endswith("ZeroDivisionError: a bug\n")


def test_nothing_is_kept_if_logs_are_off(tmp_path: Path) -> None:
    open_store(str(tmp_path)).write(record_name("now"), b"{}")
    factory = logging.getLogRecordFactory()
    with driver_log(open_store(str(tmp_path)), "now", LogSettings(limit_mb=0)) as log:
        log.add("a line")
        assert logging.getLogRecordFactory() is factory
    assert _stored(str(tmp_path)) == ""


def test_oldest_lines_are_dropped_while_the_store_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.cli.driver_log.MAX_WAITING_BYTES", 12)
    with driver_log(open_store(str(tmp_path)), "now", LogSettings(flush_s=600)) as log:
        for number in range(9):
            log.add(f"line {number}")
            log._write()  # it fails, since the run has no record yet
        log.add("last")
        open_store(str(tmp_path)).write(record_name("now"), b"{}")
    assert _stored(str(tmp_path)) == "line 8\nlast\n"
