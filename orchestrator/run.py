"""The loop of one run: decide which stages start, start them, follow their progress and write it to
the journal."""

from __future__ import annotations

import queue
import secrets
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NoReturn

from pydantic import JsonValue

from orchestrator.artifact import Manifest, Metric
from orchestrator.capacity import Machine, shortfall, total_of
from orchestrator.cluster.connection import Cluster, connected
from orchestrator.cluster.events import EventChannel
from orchestrator.cluster.exporter import Exporter
from orchestrator.cluster.placement import Ledger
from orchestrator.cluster.stage import run_stage
from orchestrator.code_version import code_version
from orchestrator.contract import Event
from orchestrator.errors import (
    ClusterError,
    DivergedError,
    InterruptedRunError,
    OrchestratorError,
    StageError,
    StoppedError,
    StoreError,
)
from orchestrator.monitoring.tally import Amounts, Tally
from orchestrator.plan import Plan, PlannedStage, Verdict
from orchestrator.process import Signals, counted_signals, stop_grace_s
from orchestrator.runs.cancel import POLL_S, WHOLE_RUN, load_requests
from orchestrator.runs.journal import STORE_OUTAGE_LIMIT_S, Journal, open_journal
from orchestrator.runs.last_run import write_last_run
from orchestrator.runs.record import RunState, StageEvent
from orchestrator.schedule import Block, Start, State, decide, find_waits
from orchestrator.store.protocol import Store
from orchestrator.store.publish import load_manifest
from orchestrator.store.stage_logs import DEFAULT_LOGS, LogSettings

TICK_S = 0.2
FINAL_EVENTS_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Update:
    """The news for a watcher: a stage's state, and the event that caused it."""

    stage: str
    state: State
    event: Event


Watcher = Callable[[Update], None]


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    states: Mapping[str, State]
    errors: Mapping[str, OrchestratorError]

    @property
    def exit_code(self) -> int:
        """0 without errors, the common exit code of all errors, or 1 if they differ.

        A cancelled stage counts as an error with the code 1.
        """
        codes = {error.exit_code for error in self.errors.values()}
        if State.CANCELLED in self.states.values():
            codes.add(OrchestratorError.exit_code)
        if not codes:
            return 0
        return codes.pop() if len(codes) == 1 else OrchestratorError.exit_code


@dataclass
class Run:
    """One invocation of `run`."""

    plan: Plan
    """The stages to run or reuse, including the stages that they need."""
    store: Store
    journal: Journal
    watch: Watcher
    errors: dict[str, OrchestratorError] = field(default_factory=dict)
    running: dict[str, Start] = field(default_factory=dict)
    ended: queue.Queue[tuple[Start, Manifest | OrchestratorError]] = field(
        default_factory=queue.Queue
    )
    cancelled: set[str] = field(default_factory=set)
    """The running stages that were asked to stop."""
    cancel_poll_s: float = POLL_S
    """The interval at which the driver looks for requests to cancel."""
    next_poll_s: float = 0.0
    """When to look for requests again, on the monotonic clock."""
    logs: LogSettings = DEFAULT_LOGS
    loss: Callable[[], str | None] = lambda: None
    """Returns why the cluster has failed, or None."""
    exporter: Exporter = field(default_factory=Exporter)
    tally: Tally = field(init=False)

    def __post_init__(self) -> None:
        self.tally = Tally({planned.name: planned.stage.metrics[0] for planned in self.plan.stages})

    def execute(self, address: str | None) -> Outcome:
        """Run the stages that are not reused. Their errors are in the outcome.

        Raises ClusterError, StoreError or InterruptedRunError.
        """
        try:
            self._reuse()
            if self._is_unfinished:
                with (
                    connected(address, is_in_use=self._is_busy) as cluster,
                    counted_signals() as signals,
                ):
                    self._loop_until_lost(cluster, signals)
        except InterruptedRunError:
            raise
        except BaseException as err:
            was_interrupted = isinstance(err, KeyboardInterrupt)
            self.journal.end(
                RunState.INTERRUPTED if was_interrupted else RunState.FAILED, error=_reason(err)
            )
            raise
        self.journal.end(self._end_state())
        return Outcome(self.journal.states, self.errors)

    def _end_state(self) -> RunState:
        if self.errors:
            return RunState.FAILED
        if State.CANCELLED in self.journal.states.values():
            return RunState.CANCELLED
        return RunState.DONE

    @property
    def _is_unfinished(self) -> bool:
        return any(not state.is_final for state in self.journal.states.values())

    def _is_busy(self) -> bool:
        """Whether a thread is still waiting for its stage to end."""
        return bool(self.running)

    def _reuse(self) -> None:
        for planned in self.plan.stages:
            if planned.verdict is Verdict.REUSE:
                manifest = load_manifest(self.store, planned.key)
                assert manifest is not None, "a manifest is never deleted during a run"
                self._enter(
                    planned, State.REUSED, Event(planned.why, metrics=_values(manifest.metrics))
                )
        self.journal.write()

    def _loop_until_lost(self, cluster: Cluster, signals: Signals) -> None:
        """Run the loop. If the cluster is lost, raise ClusterError instead of Ray's exception."""
        self.loss = cluster.loss
        try:
            self._loop(cluster, signals)
        except Exception as err:
            if isinstance(err, OrchestratorError) or (loss := self.loss()) is None:
                raise
            raise ClusterError(loss) from err
        finally:
            self._export_metrics(has_ended=True)

    def _export_metrics(self, *, has_ended: bool = False) -> None:
        self.exporter.export(
            self.tally.readings(self.journal.record, now_s=time.time(), has_ended=has_ended)
        )

    def _loop(self, cluster: Cluster, signals: Signals) -> None:
        machines = cluster.machines()
        self._refuse_the_impossible(machines)
        ledger = Ledger(total_of(machines))
        channel = EventChannel(self.journal.record.run_id)
        while self._is_unfinished:
            decisions = list(decide(self.plan, self.journal.states, free=ledger.free))
            starts = [decision for decision in decisions if isinstance(decision, Start)]
            # Reserve capacity for all of them before the first begins, which may take the rest.
            for start in starts:
                ledger.take(start.stage.name, start.capacity)
            for decision in decisions:
                self._carry_out(decision, channel, ledger)
            self.journal.wait(find_waits(self.plan, self.journal.states, free=ledger.free))
            self._await_news(channel, ledger)
            requests = self._cancel_requests()
            if signals.count or WHOLE_RUN in requests:
                how = "interrupted" if signals.count else "cancelled"
                self._interrupt(channel, ledger, signals, how=how)
            self._cancel(requests, channel)

    def _cancel_requests(self) -> frozenset[str]:
        """Return the requests to cancel, or none until the next poll is due."""
        if time.monotonic() < self.next_poll_s:
            return frozenset()
        self.next_poll_s = time.monotonic() + self.cancel_poll_s
        try:
            return load_requests(self.store, self.journal.record.run_id)
        except StoreError:  # the journal reports an outage, and limits it
            return frozenset()

    def _cancel(self, requests: frozenset[str], channel: EventChannel) -> None:
        """Cancel the stages that were requested: at once if they wait, else after a checkpoint."""
        for planned in self.plan.stages:
            if planned.name not in requests:
                continue
            state = self.journal.states[planned.name]
            if state is State.WAITING:
                self._enter(planned, State.CANCELLED, Event("cancelled before it started"))
                self.journal.write()
            elif state is State.RUNNING:
                channel.request_stop(planned.name)
                if planned.name not in self.cancelled:
                    self.cancelled.add(planned.name)
                    is_saved = _can_stop(self.plan, planned)
                    self._say(
                        planned.name,
                        "cancelling: waiting for its checkpoint" if is_saved else "cancelling",
                    )

    def _interrupt(
        self, channel: EventChannel, ledger: Ledger, signals: Signals, *, how: str
    ) -> NoReturn:
        err = InterruptedRunError(
            f"{how}; finished stages and checkpoints are kept, and the same command resumes"
        )
        # Written before stages stop and the cluster is released, because SIGKILL may follow soon.
        self.journal.end(RunState.INTERRUPTED, error=_reason(err))
        self._stop_stages(channel, ledger, signals, grace_s=stop_grace_s())
        self.journal.write()
        raise err

    def _stop_stages(
        self, channel: EventChannel, ledger: Ledger, signals: Signals, *, grace_s: float
    ) -> None:
        """Ask the stages to stop and wait for those that can. A second signal ends the wait."""
        deadline_s = time.monotonic() + grace_s
        for start in self._stopping(channel):
            text = f"stopping: waiting up to {grace_s:g} s for checkpoints"
            self.watch(Update(start.stage.name, State.RUNNING, Event(text)))
        while signals.count <= 1 and time.monotonic() < deadline_s and self._stopping(channel):
            channel.request_stop()
            self._await_news(channel, ledger)

    def _stopping(self, channel: EventChannel) -> list[Start]:
        """The running stages that an interrupted run waits for."""
        return [
            start
            for start in self.running.values()
            if _can_stop(self.plan, start.stage) and not self._is_at_rest(start, channel)
        ]

    def _is_at_rest(self, start: Start, channel: EventChannel) -> bool:
        """Whether all running trials of a search have stopped. The search itself does not end."""
        search = self.journal.record.stages[start.stage.name].search
        if search is None:
            return False
        most = min(start.slots, search.num_left)
        return channel.num_resting(start.stage.name) >= min(most, search.num_under_way or most)

    def _await_news(self, channel: EventChannel, ledger: Ledger) -> None:
        """Wait a tick for a stage to end, and record the events of the stages."""
        ended = self._await_end()
        if (loss := self.loss()) is not None:
            raise ClusterError(loss)
        # Wait for the last events of a stage that has ended. If it ended at once, the actor may
        # still be starting.
        self._record_events(
            channel.drain(timeout_s=FINAL_EVENTS_TIMEOUT_S) if ended else channel.drain()
        )
        for amounts in channel.take_amounts():
            self.tally.add(amounts)
        if ended:
            start, result = ended
            self._record_end(start, result)
            ledger.release(start.stage.name)
            del self.running[start.stage.name]
        if self.exporter.is_due:
            self._export_metrics()

    def _refuse_the_impossible(self, machines: tuple[Machine, ...]) -> None:
        waiting = [
            planned
            for planned in self.plan.stages
            if not self.journal.states[planned.name].is_final
        ]
        reasons = [reason for planned in waiting if (reason := shortfall(planned, machines))]
        if reasons:
            raise ClusterError("\n".join(reasons))

    def _carry_out(self, decision: Start | Block, channel: EventChannel, ledger: Ledger) -> None:
        """Carry out a decision."""
        if isinstance(decision, Block):
            self._enter(decision.stage, State.BLOCKED, Event(decision.why))
            self.journal.write()
            return
        self._enter(decision.stage, State.RUNNING, Event(f"starting: {decision.stage.why}"))
        self.journal.write()
        provenance: dict[str, JsonValue] = {
            "job": self.plan.job.name,
            "run_id": self.journal.record.run_id,
            "started_at_s": time.time(),
            "code": code_version().model_dump(mode="json"),
            "resources": decision.stage.stage.resources.model_dump(mode="json"),
        }
        self.running[decision.stage.name] = decision
        run = partial(
            run_stage,
            self.plan,
            decision.stage,
            slots=decision.slots,
            store=self.store,
            channel=channel,
            ledger=ledger,
            provenance=provenance,
            logs=self.logs,
        )
        # A daemon thread: an interrupted run must not wait for a training to end.
        threading.Thread(target=self._run_stage, args=(decision, run), daemon=True).start()

    def _run_stage(self, start: Start, run: Callable[[], Manifest]) -> None:
        try:
            self.ended.put((start, run()))
        except OrchestratorError as err:
            self.ended.put((start, err))
        except Exception as err:  # noqa: BLE001  the thread's edge: the loop must learn of any end
            reason = f"{type(err).__name__}: {err}\n{traceback.format_exc()}"
            self.ended.put((start, StageError(reason)))

    def _await_end(self) -> tuple[Start, Manifest | OrchestratorError] | None:
        """Wait a tick for a stage to end."""
        try:
            return self.ended.get(timeout=TICK_S)
        except queue.Empty:
            return None

    def _record_end(self, start: Start, result: Manifest | OrchestratorError) -> None:
        """Record how a stage ended. A stage that stopped with its run keeps its state, because the
        run's state explains it."""
        name = start.stage.name
        if isinstance(result, StoppedError) and self.journal.record.state is RunState.INTERRUPTED:
            self._say(name, str(result).splitlines()[0])
        elif isinstance(result, StoppedError) and name in self.cancelled:
            self._enter(start.stage, State.CANCELLED, Event(str(result).splitlines()[0]))
        elif isinstance(result, OrchestratorError):
            self.errors[name] = result
            if isinstance(result, DivergedError):
                attempt = self.journal.record.stages[name].attempt or 1
                self.tally.add(Amounts(name, attempt, nonfinite_losses=1))
            self._enter(
                start.stage, State.FAILED, Event(str(result).splitlines()[0]), error=str(result)
            )
        else:
            text = " ".join(f"{metric.name} {metric.value:.2f}" for metric in result.metrics)
            self._enter(start.stage, State.DONE, Event(text, metrics=_values(result.metrics)))
        self.journal.write()

    def _enter(
        self, planned: PlannedStage, state: State, event: Event, *, error: str | None = None
    ) -> None:
        self.journal.enter(planned.name, state, event, error=error)
        self.watch(Update(planned.name, state, event))

    def _record_events(self, events: list[StageEvent]) -> None:
        for heard in events:
            self.tally.hear(heard)
            stage = self.journal.hear(heard)
            # Show the progress of the stage: a search's trials have their own progress.
            done = stage.newest.done if stage.newest else None
            self.watch(
                Update(heard.stage, stage.state, replace(heard.event, done=done, total=stage.total))
            )
        outage = self.journal.write_if_due()
        if outage is not None:
            text = f"{outage}; trying again for up to {STORE_OUTAGE_LIMIT_S / 60:g} minutes"
            for name in self.running:
                self._say(name, text)

    def _say(self, stage: str, text: str) -> None:
        """Record a line of the driver about a running stage."""
        attempt = self.journal.record.stages[stage].attempt
        self._record_events([StageEvent(stage, attempt, time.time(), Event(text))])


def _can_stop(plan: Plan, planned: PlannedStage) -> bool:
    """Whether a stage, or a search's trials, check `should_stop`."""
    search = planned.stage.search
    kind = planned.stage.kind if search is None else plan.job.stages[search.of].kind
    return kind.stops


def _values(metrics: tuple[Metric, ...]) -> dict[str, float]:
    return {metric.name: metric.value for metric in metrics}


def _reason(err: BaseException) -> str:
    return (
        str(err)
        if isinstance(err, OrchestratorError)
        else f"{type(err).__name__}: {err}".removesuffix(": ")
    )


def new_run_id() -> str:
    """Return the name of a run that begins now. Its time is in UTC, so that names sort by time."""
    return time.strftime("%Y%m%dT%H%M%S-", time.gmtime()) + secrets.token_hex(3)


def run_plan(
    plan: Plan,
    store: Store,
    *,
    address: str | None,
    watch: Watcher,
    run_id: str | None = None,
    logs: LogSettings = DEFAULT_LOGS,
    cancel_poll_s: float = POLL_S,
) -> Outcome:
    """Run the stages of `plan` and record them as the job's last run."""
    run_id = run_id or new_run_id()
    # The record is written before the job's pointer to it, so a reader always finds the record.
    journal = open_journal(store, plan, run_id=run_id)
    write_last_run(store, plan, run_id=run_id)
    run = Run(plan, store, journal, watch, cancel_poll_s=cancel_poll_s, logs=logs)
    return run.execute(address)
