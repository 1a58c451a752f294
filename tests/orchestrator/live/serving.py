"""A job whose run the test writes, and its live page on a real server of 127.0.0.1."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from orchestrator.cli.arguments import parse_arguments
from orchestrator.cli.report import load_content
from orchestrator.contract import Event
from orchestrator.live.access import Access
from orchestrator.live.reader import Pace
from orchestrator.live.show import show_live
from orchestrator.planning import plan_job
from orchestrator.runs.journal import Journal, open_journal
from orchestrator.runs.last_run import write_last_run
from orchestrator.runs.record import RunState, StageEvent
from orchestrator.schedule import State
from orchestrator.spec import Job, load_job
from orchestrator.store import Store, open_store
from pipelines import KINDS

JOB = """
name: small
store: ./store
stages:
  train: {kind: pretrain, data: images, epochs: 10, warmup_epochs: 0}
  measure: {kind: evaluate, of: train}
"""


@dataclass
class WrittenRun:
    """A job in a folder, and a run that the test writes instead of a driver."""

    folder: Path
    store_uri: str | None = None
    job: Job = field(init=False)
    store: Store = field(init=False)
    journal: Journal = field(init=False)

    def __post_init__(self) -> None:
        for name in ("train/cat", "train/dog", "val/cat", "val/dog"):
            (self.folder / "images" / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(self.folder / "images" / name / "1.png")
        (self.folder / "job.yaml").write_text(JOB)
        self.job = load_job(
            self.folder / "job.yaml", kinds=KINDS, store=self.store_uri, base_dir=self.folder
        )
        self.store = open_store(self.job.store)

    def begin(self, run_id: str = "20261130T100000-1") -> None:
        plan = plan_job(self.job, self.store)
        self.journal = open_journal(self.store, plan, run_id=run_id)
        self.journal.enter("train", State.RUNNING, Event("starting"))
        self.journal.write()
        write_last_run(self.store, plan, run_id=run_id)

    def hear(self, epoch: int, text: str | None = None) -> None:
        """The next epoch of the training, written at once."""
        metrics = {"loss": 7 / (1 + epoch), "top1": 8.0 * epoch}
        event = Event(text or f"epoch {epoch}/10", epoch, 10, metrics)
        self.journal.hear(StageEvent("train", 1, self.journal.clock(), event))
        self.journal.write()

    def end(self) -> None:
        self.journal.end(RunState.INTERRUPTED)


@contextmanager
def serving(run: WrittenRun, *, token: str | None = None, port: int = 0) -> Iterator[int]:
    """The port of the live page of the run's job."""
    arguments = parse_arguments(["dashboard", str(run.folder / "job.yaml")])
    ready, ports, ends = (
        threading.Event(),
        list[int](),
        list[tuple[asyncio.AbstractEventLoop, asyncio.Event]](),
    )
    failures: list[BaseException] = []

    def note_ready(port: int) -> None:
        ports.append(port)
        ready.set()

    async def serve() -> None:
        ends.append((asyncio.get_running_loop(), asyncio.Event()))
        await show_live(
            run.job,
            run.store,
            load_report=lambda store: load_content(arguments, run.job, store, has_history=True),
            access=Access(is_local=True, token=token),
            host="127.0.0.1",
            port=port,
            on_ready=note_ready,
            stop=ends[0][1],
            pace=Pace(status_s=0.3, idle_s=0.3, report_s=1),
        )

    def serve_in_thread() -> None:
        try:
            asyncio.run(serve())
        except BaseException as err:  # noqa: BLE001  raised in the test's thread
            failures.append(err)
            ready.set()

    thread = threading.Thread(target=serve_in_thread)
    thread.start()
    assert ready.wait(60)
    try:
        if not failures:
            yield ports[0]
    finally:
        loop, stop = ends[0]
        if thread.is_alive():
            loop.call_soon_threadsafe(stop.set)
        thread.join(60)
    for failure in failures:
        raise failure


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    text: str


def ask(port: int, path: str = "/", *, method: str = "GET", **headers: str) -> Answer:
    """One request. Underscores in the names of headers become hyphens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(
        method, path, headers={name.replace("_", "-"): value for name, value in headers.items()}
    )
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return Answer(answer.status, dict(answer.getheaders()), text)


def updates(port: int, since: str = "") -> dict[str, Any]:
    """What the server answers to the script of the page."""
    answer = ask(port, f"/updates?since={since}")
    assert answer.status == 200
    found: dict[str, Any] = json.loads(answer.text)
    return found


def complete_updates(port: int) -> dict[str, Any]:
    """Everything, once the store was read."""
    return updates_with(port, "origin")


def updates_with(port: int, section: str, since: str = "") -> dict[str, Any]:
    """The updates as soon as they have the section."""
    deadline = time.monotonic() + 300
    while section not in (found := updates(port, since))["sections"]:
        assert time.monotonic() < deadline, found["names"]
        time.sleep(0.05)
    return found
