"""The benchmarks accept the commands in docs/performance.md."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from benchmarks.loading.settings import parse_settings as parse_loading_settings
from benchmarks.speed.settings import parse_settings

TEXT = (Path(__file__).parents[2] / "docs" / "performance.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^ {4}python -m benchmarks\.model_speed(.*)$", TEXT, re.MULTILINE)
LOADING_COMMANDS = re.findall(r"^ {4}python -m benchmarks\.data_loading(.*)$", TEXT, re.MULTILINE)


@pytest.mark.parametrize("arguments", COMMANDS)
def test_each_command_is_accepted(monkeypatch: pytest.MonkeyPatch, arguments: str) -> None:
    # Some commands are for a machine with a GPU.
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert parse_settings(shlex.split(arguments)).models


def test_there_are_commands_for_both_devices() -> None:
    assert {"--device cuda" in command for command in COMMANDS} == {True, False}


@pytest.mark.parametrize("arguments", LOADING_COMMANDS)
def test_each_data_loading_command_is_accepted(
    monkeypatch: pytest.MonkeyPatch, arguments: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert parse_loading_settings(shlex.split(arguments)).rounds >= 5


def test_there_are_loading_commands_for_both_devices() -> None:
    assert {"--device cuda" in command for command in LOADING_COMMANDS} == {True, False}
