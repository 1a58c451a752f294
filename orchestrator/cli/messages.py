"""When a run sends a message to the chat that the job's `notify` names, and what it says."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from orchestrator.errors import InterruptedRunError
from orchestrator.notify import Message, Sender, webhook_of, without_userinfo
from orchestrator.redaction import redactor
from orchestrator.report import Cell, CellVerdict
from orchestrator.schedule import State
from orchestrator.spec import Job

if TYPE_CHECKING:
    from orchestrator.progress import Update, Watcher  # they import ray
    from orchestrator.run import Outcome


class Messages:
    """The messages of one run. A context: an error that leaves it is sent, too, and its end waits a
    few seconds for the receiver. Without `notify` it sends nothing."""

    def __init__(self, job: Job, path: Path, *, environment: Mapping[str, str]) -> None:
        """Raises JobError if the job names a webhook that the environment does not have."""
        self._job, self._path = job, path
        self._on = frozenset(job.notify.on if job.notify else ())
        self._environment = environment
        self._listeners: list[Callable[[str], None]] = []
        self._sender = (
            Sender(webhook_of(job.notify, environment), warn=self._warn) if job.notify else None
        )
        self._failed: set[str] = set()
        self._is_failure_the_news = False
        """Whether the newest message is about a failed stage, and nothing has happened since except
        that other stages were blocked by it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        is_failure = isinstance(err, Exception) and not isinstance(err, InterruptedRunError)
        if is_failure and "failed" in self._on:
            self._post(f"{self._job.name}: failed: {_first_line(err)}", (), verb="status")
        if self._sender is not None:
            self._sender.close()

    def warn_also(self, note: Callable[[str], None]) -> None:
        """Pass later warnings about messages also to `note`."""
        self._listeners.append(note)

    def _warn(self, text: str) -> None:
        line = f"warning: {text}"
        print(line, file=sys.stderr)
        for note in self._listeners:
            note(line)

    def following(self, watch: Watcher) -> Watcher:
        """Return a watcher that calls `watch` and sends a message for each stage that fails."""

        def both(update: Update) -> None:
            watch(update)
            self._hear(update)

        return both

    def _hear(self, update: Update) -> None:
        if update.state not in (State.FAILED, State.BLOCKED):
            self._is_failure_the_news = False
        elif update.state is State.FAILED and update.stage not in self._failed:
            self._failed.add(update.stage)  # its last events may come after its end
            if "failed" in self._on:
                headline = f"{self._job.name}: stage {update.stage} failed"
                self._post(headline, (f"{update.stage}: {update.event.text}",), verb="status")
                self._is_failure_the_news = True

    def end(self, verdict: str, outcome: Outcome, cells: tuple[Cell, ...]) -> None:
        """Send one message about the end of the run, if it is news."""
        missed = [cell for cell in cells if cell.verdict is CellVerdict.FAIL]
        occasions = {
            "failed": bool(outcome.errors) and not self._is_failure_the_news,
            "done": all(state in (State.DONE, State.REUSED) for state in outcome.states.values()),
            "missed": bool(missed),
        }
        if not any(occasions[occasion] for occasion in self._on):
            return
        failures = [f"{name}: {_first_line(error)}" for name, error in outcome.errors.items()]
        lines = (*failures, *(_missed_line(cell) for cell in missed))
        self._post(verdict, lines, verb="status" if outcome.errors else "report")

    def _post(self, headline: str, lines: tuple[str, ...], *, verb: str) -> None:
        if self._sender is None:
            return
        store = without_userinfo(self._job.store)
        command = shlex.join(["orchestrator", verb, str(self._path), "--store", store])
        # A chat is read by others, and its messages leave the company.
        clean = redactor(self._environment, secret_names(self._job)).redacted_text
        self._sender.post(Message(clean(headline), tuple(map(clean, lines)), store, command))


def secret_names(job: Job) -> frozenset[str]:
    """Return the environment variables that the job names and whose values are secrets."""
    return frozenset({job.notify.url_env} if job.notify else ())


def _first_line(err: BaseException | None) -> str:
    return (str(err).strip() or type(err).__name__).splitlines()[0]


def _missed_line(cell: Cell) -> str:
    return f"{cell.stage}: {cell.metric} is {cell.value_text}, expected {cell.expected}"
