"""The dashboard and the alerts are generated from the lists, and Prometheus accepts the alerts."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.monitoring.alerts import ALERTS, Alert
from orchestrator.monitoring.files import ALERTS_FILE, DASHBOARD_FILE, alerts_text, dashboard_text
from orchestrator.monitoring.metrics import METRICS

DEPLOY = Path(__file__).parents[3] / "deploy"
RULES = Path(__file__).parent / "rules"


def _promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("promtool") is None:
        pytest.skip("no promtool here: apt-get install prometheus")
    return subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("name", "text"), [(DASHBOARD_FILE, dashboard_text()), (ALERTS_FILE, alerts_text())]
)
def test_generated_file_is_current(name: str, text: str) -> None:
    assert (DEPLOY / name).read_text() == text, "run `make docs`"


def test_file_in_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    command = [sys.executable, "-m", "orchestrator.monitoring", str(tmp_path / "file")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    path = tmp_path / "file" / DASHBOARD_FILE
    assert done.returncode == 3
    assert done.stderr == f"error: {path}: cannot be written: Not a directory\n"


def test_prometheus_accepts_the_alerts() -> None:
    done = _promtool("check", "rules", str(DEPLOY / ALERTS_FILE))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_alert_fires_when_it_should_and_only_then(alert: Alert) -> None:
    done = _promtool("test", "rules", str(RULES / f"{alert.name}.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_alerts_use_only_metrics_of_the_list() -> None:
    named = {name for alert in ALERTS for name in re.findall(r"\bray_\w+", alert.query)}
    assert named - {metric.series for metric in METRICS} == set()


def test_every_metric_has_a_panel_of_its_own() -> None:
    titles = [metric.panel.title for metric in METRICS]
    assert len(set(titles)) == len(titles)
    assert [metric.name for metric in METRICS if metric.series not in metric.query] == []
