"""The exporter of live metrics, without a run. tests/system/test_monitoring.py scrapes a run."""

from __future__ import annotations

import logging

import pytest

from orchestrator.cluster.exporter import REFRESH_S, Exporter
from orchestrator.monitoring.tally import Reading

TAGS = {"orchestrator_job": "cat", "stage": "train"}


def test_values_are_due_at_once_and_after_each_interval() -> None:
    now_s = 0.0
    exporter = Exporter(clock=lambda: now_s)
    assert exporter.is_due
    exporter.export([Reading("loss", 0.5, TAGS), Reading("retries", 0.0, TAGS)])
    assert not exporter.is_due
    now_s = REFRESH_S
    assert exporter.is_due


def test_error_of_ray_ends_the_export_but_not_the_run(caplog: pytest.LogCaptureFixture) -> None:
    exporter = Exporter()
    with caplog.at_level(logging.WARNING):
        exporter.export([Reading("loss", 0.5, {"path": "/secret"})])
    assert "live metrics are not exported any more: ValueError: Missing value" in caplog.text
    assert not exporter.is_due
