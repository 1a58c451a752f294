"""Read the store for the live page: the status every 2 s, the whole report when there is news.

One reader serves all viewers. Without a viewer it reads nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from orchestrator.errors import IntegrityError, OrchestratorError, StoreError
from orchestrator.live.board import Board
from orchestrator.live.events import EventFeed, SeenEvent
from orchestrator.live.strip import make_report, make_strip, make_title
from orchestrator.report.content import ReportContent
from orchestrator.runs.last_run import last_run_name
from orchestrator.runs.status import Condition, Status, load_status
from orchestrator.spec import Job
from orchestrator.store.protocol import Store

REPORT_SHARE = 0.1
"""The report of a job of 500 stages takes 10 s to make. It may be made for this part of the
time."""
NEWS_INTERVAL_S = 0.5


@dataclass(frozen=True)
class Pace:
    """How often the store is read, in seconds."""

    status_s: float = 2.0
    idle_s: float = 5.0
    """The pause between looks at the status while no run is active."""
    report_s: float = 10.0


USUAL_PACE = Pace()


@dataclass
class Reader:
    """Two threads, so that the status stays current while the report is read."""

    job: Job
    store: Store
    board: Board
    load_report: Callable[[], ReportContent]
    on_crash: Callable[[BaseException], None]
    """Called with what only a defect raises."""
    pace: Pace = USUAL_PACE
    _feed: EventFeed = field(init=False)
    _events: tuple[SeenEvent, ...] = ()
    _run_id: str | None = None
    """The newest run that was seen."""
    _num_outages: int = 0
    _news: object = None
    """Differs whenever the report may have changed."""
    _reported: object = None

    def __post_init__(self) -> None:
        self._feed = EventFeed(self.store)

    def start(self) -> None:
        for look in (self.look_at_status, self.look_at_report):
            threading.Thread(target=self._repeat, args=(look,), daemon=True).start()

    def _repeat(self, look: Callable[[], float]) -> None:
        try:
            while self.board.wait_for_viewer():
                self.board.pause(look())
        except BaseException as err:  # noqa: BLE001  a thread's edge: the server ends with it
            self.on_crash(err)

    def look_at_status(self) -> float:
        """Put the status on the board. Returns the seconds until the next look."""
        now_s = self.board.clock()
        try:
            status = self._load_status(now_s)
            news = self._news_of(status, now_s)
            if status.run_id is not None and news != self._news:
                self._events = self._feed.read(status.run_id)
        except OrchestratorError as err:
            self._num_outages += 1
            self.board.note_trouble("now", _kind_of(err), str(err))
            return self.pace.status_s
        strip = make_strip(status, self._events, now_s=now_s)
        self.board.put("now", strip, title=make_title(status))
        self.board.note_read("now")
        self._news = news
        return self.pace.status_s if status.state is Condition.RUNNING else self.pace.idle_s

    def _news_of(self, status: Status, now_s: float) -> object:
        """Return what changes when the driver writes the record, and after an outage."""
        heard_at_s = None if status.heard_s_ago is None else round(now_s - status.heard_s_ago, 3)
        return status.run_id, status.state, heard_at_s, self._num_outages

    def _load_status(self, now_s: float) -> Status:
        status = load_status(self.job, self.store, now_s=now_s)
        self._check_run(status.run_id)
        self._run_id = status.run_id
        return status

    def _check_run(self, run_id: str | None) -> None:
        """Raise StoreError if the run is gone: a folder that is no longer mounted looks empty."""
        if run_id is None and self._run_id is not None:
            where = f"store {self.store.uri}: {last_run_name(self.job.name)}"
            raise StoreError(f"{where}: is missing, although it was there before")

    def look_at_report(self) -> float:
        """Put the report on the board if there is news. Returns the seconds until the next look."""
        news = self._news
        if news is None or news == self._reported:
            return NEWS_INTERVAL_S
        began_s = time.monotonic()
        try:
            content = self.load_report()
            self._check_run(content.origin.run_id)
        except OrchestratorError as err:
            self.board.note_trouble("report", _kind_of(err), str(err))
            return self.pace.status_s
        self.board.put("report", make_report(content, now_s=self.board.clock()))
        self.board.note_read("report")
        self._reported = news
        return max(self.pace.report_s, (time.monotonic() - began_s) / REPORT_SHARE)


def _kind_of(err: OrchestratorError) -> str:
    is_away = isinstance(err, StoreError) and not isinstance(err, IntegrityError)
    return "store unreachable" if is_away else "store unreadable"
