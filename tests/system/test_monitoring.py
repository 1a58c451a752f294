"""One run on a cluster with Ray's dashboard, watched in every way: by Prometheus with Ray's own
configuration, on the live page, in its logs, by messages; and one of its stages is cancelled."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from orchestrator.monitoring.alerts import ALERTS
from orchestrator.monitoring.files import ALERTS_FILE, DASHBOARD_FILE
from orchestrator.monitoring.metrics import METRICS
from tests.browser import opened_url
from tests.conftest import ROOT, free_port
from tests.orchestrator.cli.test_dashboard import port_of
from tests.ray_nodes import STARTS
from tests.webhook import receiving

DEPLOY = ROOT / "deploy"
# The group takes all the CPUs that the first stage leaves, so that the search begins later. Its
# trials are groups, too. The first stage loses one attempt, after Ray has exported that none is
# lost: it exports every 10 s.
JOB = """
name: live
store: ./store
notify: {url_env: CHAT, on: [failed, done]}
stages:
  alone:
    kind: count
    data: data
    epochs: 8
    epoch_s: 7.0
    dies_after: 2
    resumed_epoch_s: 1.0
    trains: true
    says: hello
  endless: {kind: count, data: data, source: alone.count, epochs: 1000, epoch_s: 1.0}
  broken: {kind: count, data: data, epochs: 1, fails: late_bug, says: before the bug}
  group: {kind: count, data: data, epochs: 3, epoch_s: 1.0, resources: {workers: 2}}
  search:
    kind: tune
    of: group
    space: {gain: {choice: [1.0, 2.0]}}
    num_trials: 1
    algorithm: {name: random}
    scheduler: {name: none}
    overrides: {epochs: 6}
    resources: {workers: 2}
"""
DEADLINE_S = 1500
(RUN_END,) = (metric for metric in METRICS if metric.name == "run_end_timestamp_seconds")
pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Watched:
    """A run that has ended, on a cluster that still answers."""

    output: str = ""
    dashboard: str = ""
    """The address of Ray's dashboard."""
    prometheus: str = ""
    began_s: float = 0
    ended_s: float = 0
    scraped: set[str] = field(default_factory=set)
    """The names of all metrics that Ray's endpoints served while the run worked."""
    percents: set[str] = field(default_factory=set)
    """How far the live page said that the first stage was."""
    log: str = ""
    """What `logs --follow` printed of the first stage."""
    messages: tuple[str, ...] = ()
    """What the chat got."""
    stages: tuple[dict[str, Any], ...] = ()
    """What `status --json` printed after the end."""


def _fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=60) as answer:
        text: str = answer.read().decode()
        return text


def _await(is_true: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while True:
        with suppress(OSError, ValueError):
            if is_true():
                return
        assert time.monotonic() < deadline_s, what
        time.sleep(0.2)


@contextmanager
def _process(command: list[str], log: Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A process in the folder of its `log` that is ended with the block."""
    with (
        log.open("w") as output,
        subprocess.Popen(
            command,
            cwd=log.parent,
            env={**os.environ, **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process,
    ):
        try:
            yield process
        finally:
            process.terminate()


@contextmanager
def _head(folder: str, *, port: int, dashboard_port: int) -> Iterator[Path]:
    """A head node with 3 CPUs. Yields the folder of its session."""
    ports = {
        "port": port,
        "dashboard-port": dashboard_port,
        "dashboard-agent-listen-port": free_port(),
        "metrics-export-port": free_port(),
        "ray-client-server-port": free_port(),
    }
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    command += ["--num-cpus=3", f"--temp-dir={folder}"]
    command += [f"--{name}={number}" for name, number in ports.items()]
    address = f":{ports['metrics-export-port']}"
    targets = Path(folder, "prom_metrics_service_discovery.json")

    def serves_metrics() -> bool:
        url = f"http://127.0.0.1{address}/metrics"
        return bool(_fetch(url)) and address in targets.read_text()

    log = Path(folder, "head.log")
    for _ in range(STARTS):
        with _process(command, log, RAY_TMPDIR=folder) as head:

            def has_ended(head: subprocess.Popen[str] = head) -> bool:
                return head.poll() is not None

            _await(lambda: has_ended() or serves_metrics(), "the head does not serve its metrics")
            if not has_ended():
                yield Path(folder, "session_latest")
                return
    raise AssertionError(log.read_text())


@contextmanager
def _prometheus(session: Path, folder: Path) -> Iterator[str]:
    """A Prometheus with the configuration that Ray generated, our alerts, and a short interval."""
    config = (session / "metrics" / "prometheus" / "prometheus.yml").read_text()
    config = config.replace("_interval: 10s", "_interval: 1s")
    (folder / "prometheus.yml").write_text(f"{config}\nrule_files: ['{DEPLOY / ALERTS_FILE}']\n")
    address = f"127.0.0.1:{free_port()}"
    command = ["prometheus", f"--config.file={folder / 'prometheus.yml'}"]
    command += [f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={address}"]
    with _process(command, folder / "prometheus.log"):
        _await(lambda: bool(_fetch(f"http://{address}/-/ready")), "no Prometheus")
        yield f"http://{address}"


@pytest.fixture(scope="module")
def watched(environment: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    if shutil.which("prometheus") is None:
        pytest.skip("no prometheus here: apt-get install prometheus")
    folder = tmp_path_factory.mktemp("watched")
    (folder / "data").mkdir()
    (folder / "data" / "content.txt").write_text("content")
    (folder / "job.yaml").write_text(JOB)
    port, dashboard_port = free_port(), free_port()
    with (
        # Paths of sockets have a maximum length.
        tempfile.TemporaryDirectory(
            prefix="ray-", dir="/tmp", ignore_cleanup_errors=True
        ) as ray_folder,
        _head(ray_folder, port=port, dashboard_port=dashboard_port) as session,
        _prometheus(session, folder) as prometheus,
    ):
        began_s = time.time()
        watched = _run_watched(folder, ray_folder, f"127.0.0.1:{port}")
        # The driver gives Ray the last values when the run ends, and Ray serves them afterwards.
        _await(lambda: bool(_value(prometheus, f"{RUN_END.series}>0")), "no end of the run")
        watched.scraped.update(_metrics_of(Path(ray_folder)))
        last_s = time.time()
        _await(lambda: _value(prometheus, "min(timestamp(up))") > last_s, "no further scrape")
        yield replace(
            watched,
            dashboard=f"http://127.0.0.1:{dashboard_port}",
            prometheus=prometheus,
            began_s=began_s,
            ended_s=time.time(),
        )


def _value(prometheus: str, query: str) -> float:
    """The present value of a query, or 0 if it has none."""
    answer = _fetch(f"{prometheus}/api/v1/query?{urllib.parse.urlencode({'query': query})}")
    results = json.loads(answer)["data"]["result"]
    return float(results[0]["value"][1]) if results else 0.0


def _run_watched(folder: Path, ray_folder: str, address: str) -> Watched:
    """Run the job, and look at it in every way until it has ended. One stage is cancelled."""
    watched = Watched()
    with (
        receiving(200) as chat,
        _process(_verb("run", "--address", address), folder / "run.log", CHAT=chat.url) as run,
        _live_page(folder) as page,
        _following(folder, "alone") as follower,
    ):
        is_asked = False

        def has_ended() -> bool:
            nonlocal is_asked
            watched.scraped.update(_metrics_of(Path(ray_folder)))
            watched.percents.update(_percents(page))
            if not is_asked and "endless: epoch 1/1000" in (folder / "run.log").read_text():
                is_asked = True
                _print_of(folder, "cancel", "endless")
            return run.poll() is not None

        _await(has_ended, "the run does not end")
        expect(page.locator("#now .verdict")).to_contain_text("failed", timeout=DEADLINE_S * 1000)
        follower.wait(DEADLINE_S)
    output = (folder / "run.log").read_text()
    assert run.returncode == 1, output
    return replace(
        watched,
        output=output,
        log=(folder / "alone.log").read_text(),
        messages=tuple(chat.texts),
        stages=tuple(json.loads(_print_of(folder, "status", "--json"))["stages"]),
    )


def _verb(verb: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "tests.orchestrator", verb, "job.yaml", *arguments]


def _print_of(folder: Path, verb: str, *arguments: str) -> str:
    done = subprocess.run(
        _verb(verb, *arguments), cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout


@contextmanager
def _live_page(folder: Path) -> Iterator[Page]:
    """The live page of the job in a browser."""
    log = folder / "dashboard.log"
    with _process(_verb("dashboard", "--port", "0"), log):
        _await(lambda: "http://" in log.read_text(), "the live page is not served")
        with opened_url(f"http://127.0.0.1:{port_of(log.read_text())}/") as page:
            yield page


def _percents(page: Page) -> set[str]:
    row = page.locator("#now tr", has_text="alone").locator(".percent")
    return set(row.all_inner_texts())


@contextmanager
def _following(folder: Path, stage: str) -> Iterator[subprocess.Popen[str]]:
    """A process that follows the log of a stage from its first line."""
    _await(lambda: f"{stage}: starting" in (folder / "run.log").read_text(), "it does not start")
    with _process(_verb("logs", stage, "--follow"), folder / f"{stage}.log") as follower:
        yield follower


def _metrics_of(ray_folder: Path) -> set[str]:
    """The names of the metrics at all endpoints that Ray lists for Prometheus."""
    groups = json.loads((ray_folder / "prom_metrics_service_discovery.json").read_text())
    found: set[str] = set()
    for target in (target for group in groups for target in group["targets"]):
        with suppress(OSError):  # another cluster may own the ports of the head's other processes
            found.update(re.findall(r"^(ray_\w+)\{", _fetch(f"http://{target}/metrics"), re.M))
    return found


def _results(watched: Watched, query: str) -> list[dict[str, Any]]:
    """The series of a query over the time of the run, as Grafana asks for them."""
    fields = {"query": query, "start": watched.began_s, "end": watched.ended_s, "step": 1}
    answer = _fetch(f"{watched.prometheus}/api/v1/query_range?{urllib.parse.urlencode(fields)}")
    results: list[dict[str, Any]] = json.loads(answer)["data"]["result"]
    return results


def _last(watched: Watched, series: str, **labels: str) -> float:
    """The last value of the only series with these labels."""
    filters = ", ".join(f'{name}="{value}"' for name, value in labels.items())
    (found,) = _results(watched, f"{series}{{{filters}}}")
    return float(found["values"][-1][1])


def test_endpoint_has_every_metric_of_the_dashboard_and_the_alerts(watched: Watched) -> None:
    texts = [(DEPLOY / name).read_text() for name in (DASHBOARD_FILE, ALERTS_FILE)]
    named = set(re.findall(r"\bray_orchestrator_\w+", " ".join(texts)))
    on_gpus = {metric.series for metric in METRICS if metric.needs_gpu}
    assert named - on_gpus - watched.scraped == set()
    assert {metric.series for metric in METRICS} - named == set()


def _panels() -> list[tuple[str, str]]:
    """The title and the query of each panel, with the values that Grafana puts in."""
    panels = json.loads((DEPLOY / DASHBOARD_FILE).read_text())["panels"]
    values = {"$orchestrator_job": "live", "$stage": ".*", "$__rate_interval": "40s"}
    found = []
    for panel in panels:
        for target in panel.get("targets", ()):
            query = target["expr"]
            for name, value in values.items():
                query = query.replace(name, value)
            found.append((panel["title"], query))
    return found


def test_every_panel_of_the_dashboard_has_a_value(watched: Watched) -> None:
    on_gpus = {metric.panel.title for metric in METRICS if metric.needs_gpu}
    empty = [
        title
        for title, query in _panels()
        if title not in on_gpus
        and not any(
            math.isfinite(float(value))
            for series in _results(watched, query)
            for _, value in series["values"]
        )
    ]
    assert empty == []


def test_last_values_are_those_at_the_end_of_the_run(watched: Watched) -> None:
    done = {"orchestrator_job": "live", "state": "done"}
    for stage in ("alone", "group", "search"):
        assert _last(watched, "ray_orchestrator_stage_state", stage=stage, **done) == 1
    alone = {"orchestrator_job": "live", "stage": "alone"}
    assert _last(watched, "ray_orchestrator_main_metric", **alone) == 8
    assert _last(watched, "ray_orchestrator_lost_attempts_total", **alone) == 1
    assert _last(watched, "ray_orchestrator_upload_bytes_total", **alone) > 0


def test_counters_start_at_zero(watched: Watched) -> None:
    (series,) = _results(watched, 'ray_orchestrator_lost_attempts_total{stage="alone"}')
    assert float(series["values"][0][1]) == 0


def test_alerts_are_loaded_and_none_fires(watched: Watched) -> None:
    groups = json.loads(_fetch(f"{watched.prometheus}/api/v1/rules"))["data"]["groups"]
    rules = {rule["name"]: rule for group in groups for rule in group["rules"]}
    assert set(rules) == {alert.name for alert in ALERTS}
    assert {name: rule["health"] for name, rule in rules.items() if rule["health"] != "ok"} == {}
    assert {name for name, rule in rules.items() if rule["state"] == "firing"} == set()


def test_rays_api_lists_groups_by_job_stage_and_trial(watched: Watched) -> None:
    answer = json.loads(_fetch(f"{watched.dashboard}/api/train/v2/runs/v1"))
    names = {run["name"].rpartition("-")[0] for run in answer["train_runs"]}
    assert names == {"live.group", "live.search.00001"}


def test_lone_workers_and_trials_are_on_the_actors_page_by_name(watched: Watched) -> None:
    answer = json.loads(_fetch(f"{watched.dashboard}/logical/actors"))
    actors = answer["data"]["actors"].values()
    names = {actor["name"] for actor in actors} | {actor["reprName"] for actor in actors}
    assert any(re.fullmatch(r"live\.alone-\w{8}-\w+-\w+-2", name) for name in names)
    assert any(re.fullmatch(r"live\.search-\w{8}", name) for name in names)


def test_the_live_page_shows_progress_without_a_reload(watched: Watched) -> None:
    assert "100%" in watched.percents
    assert len(watched.percents) > 2


def test_the_log_of_a_killed_worker_is_followed_into_its_next_attempt(watched: Watched) -> None:
    first, _, second = watched.log.partition("[orchestrator: attempt 2 of alone]")
    said = [re.findall(r"epoch (\d): hello", text) for text in (first, second)]
    assert said[0] == ["1", "2"]
    assert said[1][-6:] == ["3", "4", "5", "6", "7", "8"]


def test_a_failed_stage_shows_its_last_lines_and_the_command_for_the_rest(watched: Watched) -> None:
    told = watched.output[watched.output.index("stages.broken: ") :]
    assert "    rank 0 epoch 1: before the bug" in told
    assert "orchestrator logs job.yaml broken --attempt 1 --rank 0" in told


def test_a_cancelled_stage_ends_and_the_others_finish(watched: Watched) -> None:
    assert {row["stage"]: row["state"] for row in watched.stages} == {
        "alone": "done",
        "endless": "cancelled",
        "broken": "failed",
        "group": "done",
        "search": "done",
    }


def test_the_chat_gets_the_failed_stage_and_the_end(watched: Watched) -> None:
    failed, end = watched.messages
    assert failed.startswith("live: stage broken failed")
    assert "a late bug" in failed
    assert end.startswith("live: failed: broken; cancelled: endless")
