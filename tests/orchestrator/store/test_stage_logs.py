"""Logs in the store: parts, the limit, and what a reader sees, on both stores."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from orchestrator.errors import JobError
from orchestrator.store import open_store
from orchestrator.store.stage_logs import (
    LogName,
    LogReader,
    LogSettings,
    LogWriter,
    last_lines,
    list_logs,
    log_settings,
)

FOLDER = LogName(None, 1, 0).folder("now", "pretrain")


def _lines(start: int, end: int) -> bytes:
    return "".join(f"line {number:04d}\n" for number in range(start, end)).encode()


def test_logs_of_a_stage_are_listed_by_trial_attempt_and_rank(store_uri: str) -> None:
    store = open_store(store_uri)
    names = [LogName("00002", 1, 0), LogName(None, 10, 0), LogName(None, 2, 1), LogName(None, 2, 0)]
    for name in names:
        LogWriter(store, name.folder("now", "pretrain/a-1"), 2**20).write(b"text\n")
    assert list_logs(store, "now", "pretrain/a-1") == (*reversed(names[1:]), names[0])
    assert list_logs(store, "now", "pretrain") == ()


def test_reader_gets_each_line_once_while_parts_grow(store_uri: str) -> None:
    store = open_store(store_uri)
    writer, reader = LogWriter(store, FOLDER, 2**20), LogReader(store, FOLDER)
    heard: list[str] = []
    for number in range(5):
        writer.write(_lines(number, number + 1))
        if number % 2:
            heard += reader.read()
    heard += reader.read()
    assert "".join(heard) == _lines(0, 5).decode()
    assert writer.num_parts == 1, "small parts are continued"


def test_log_over_its_limit_keeps_head_and_tail_and_names_the_gap(store_uri: str) -> None:
    store = open_store(store_uri)
    writer = LogWriter(store, FOLDER, limit_bytes=1000)
    for number in range(0, 1000, 30):
        writer.write(_lines(number, number + 30))
    text = "".join(LogReader(store, FOLDER).read())
    found = [int(number) for number in re.findall(r"line (\d+)\n", text)]
    assert sum(len(store.read(name) or b"") for name in store.names(FOLDER)) <= 1000
    assert found[0] == 0
    assert found[-1] == 1019
    assert "parts of this log were deleted here" in text
    assert last_lines(store, FOLDER, 2) == ["line 1018", "line 1019"]


@pytest.mark.parametrize("value", ["soon", "0", "-1", "nan", "inf"])
def test_wrong_setting_is_named_with_its_value(value: str) -> None:
    with pytest.raises(JobError, match=rf"ORCHESTRATOR_LOG_FLUSH_S is '{value}', not a number of"):
        log_settings({"ORCHESTRATOR_LOG_FLUSH_S": value})
    assert log_settings({"ORCHESTRATOR_LOG_FLUSH_S": "0.5"}) == LogSettings(flush_s=0.5)


def test_workers_and_trials_share_the_limit_of_a_stage() -> None:
    settings = LogSettings(limit_mb=64)
    assert settings.limit_bytes(4) == 2**24
    assert replace(settings, num_trials=8).limit_bytes(4) == 2**21
    assert replace(settings, num_trials=10_000).limit_bytes(4) == 2**18


def test_tiny_sizes_do_not_lead_to_tiny_parts() -> None:
    settings = log_settings(
        {"ORCHESTRATOR_LOG_LIMIT_MB": "0.000001", "ORCHESTRATOR_LOG_PART_MB": "0.000001"}
    )
    assert settings.limit_bytes(1) == 2**18
    assert settings.part_bytes == 2**14
