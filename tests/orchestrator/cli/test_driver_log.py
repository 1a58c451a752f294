"""The driver's log has its lines and Python's log records."""

from __future__ import annotations

import logging
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
    open_store(store_uri).write(record_name("now"), b"{}")
    with driver_log(open_store(store_uri), "now", LogSettings()) as log:
        log.add("one: starting")
        logging.getLogger("library").warning("with %s", "open-sesame")
        logging.getLogger("library").debug("not enabled")
    logging.getLogger("library").warning("after the run")
    line, record = _stored(store_uri).splitlines()
    assert line == "one: starting"
    assert record.endswith(" WARNING library: with ***")


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
