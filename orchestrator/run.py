"""The loop of one run: decide which stages start, start them, follow their progress and write it to
the journal."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import NoReturn

from pydantic import JsonValue

from orchestrator.artifact import Manifest, Metric
from orchestrator.capacity import Machine
from orchestrator.cluster.admission import SharedGate
from orchestrator.cluster.autoscaler import can_grow
from orchestrator.cluster.connection import Cluster, connected
from orchestrator.cluster.events import EventChannel
from orchestrator.cluster.fleet_watch import FleetWatch
from orchestrator.cluster.ledger import Ledger
from orchestrator.cluster.origin import Origin, find_origin
from orchestrator.cluster.stage import run_stage
from orchestrator.contract import Event
from orchestrator.critical_path import critical_path_s
from orchestrator.errors import (
    ClusterError,
    DivergedError,
    InterruptedRunError,
    OrchestratorError,
    StageHeldError,
    StoppedError,
    StoreError,
)
from orchestrator.fleet import shortfall
from orchestrator.interruption import can_stop, stopping
from orchestrator.monitoring.tally import Amounts, Tally
from orchestrator.plan import Plan, PlannedStage, Verdict
from orchestrator.process import Signals, counted_signals, stop_grace_s
from orchestrator.progress import Progress, Update, Watcher
from orchestrator.runs.cancel import POLL_S, WHOLE_RUN, RequestWatch
from orchestrator.runs.durations import load_durations
from orchestrator.runs.journal import Journal, open_journal
from orchestrator.runs.last_run import write_last_run
from orchestrator.runs.ownership import OwnedStages
from orchestrator.runs.record import RunState
from orchestrator.schedule import Block, Start, State
from orchestrator.stage_queue import StageQueue
from orchestrator.stage_threads import StageThreads
from orchestrator.store.lease import LEASE_S, find_owner
from orchestrator.store.marks import await_unmarked
from orchestrator.store.protocol import Store
from orchestrator.store.publish import TRAINING, clear_training, load_manifest, manifest_name
from orchestrator.store.stage_logs import DEFAULT_LOGS, LogSettings

TICK_S = 0.2
FINAL_EVENTS_TIMEOUT_S = 60.0
EXPORT_INTERVAL_S = 11.0
"""Ray exports metrics every 10 s, and not when a process ends while its threads use Ray."""


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
    progress: Progress
    owned: OwnedStages
    errors: dict[str, OrchestratorError] = field(default_factory=dict)
    stages: StageThreads = field(default_factory=StageThreads)
    cancelled: set[str] = field(default_factory=set)
    """The running stages that were asked to stop."""
    cancel_poll_s: float = POLL_S
    """The interval at which the driver looks for requests to cancel."""
    logs: LogSettings = DEFAULT_LOGS
    waits: bool = True
    """Whether to wait for a stage that another run works on."""
    lengths_s: Mapping[str, float] = field(default_factory=dict)
    """By stage, the expected time from its start to the end of the last stage that needs it."""
    loss: Callable[[], str | None] = lambda: None
    """Returns why the cluster has failed, or None."""

    @cached_property
    def origin(self) -> Origin:
        """What the manifests of this run have in common."""
        return find_origin(self.plan.job.source, os.environ)

    @property
    def journal(self) -> Journal:
        return self.progress.journal

    def execute(self, address: str | None) -> Outcome:
        """Run the stages that are not reused. Their errors are in the outcome.

        Raises ClusterError, StoreError or InterruptedRunError.
        """
        try:
            self._reuse()
            if self._is_unfinished:
                with (
                    self.owned,
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
        return bool(self.stages.running)

    def _reuse(self) -> None:
        """Enter the stages that are reused. One whose results gc has just deleted stays waiting, so
        that it runs again."""
        reused = [planned for planned in self.plan.stages if planned.verdict is Verdict.REUSE]
        # The job's record names their Keys now, and what exists after this stays.
        await_unmarked(self.store, [manifest_name(planned.key) for planned in reused])
        for planned in reused:
            manifest = load_manifest(self.store, planned.key)
            if manifest is not None:
                self._enter_reused(planned.name, planned.why, manifest)
        self.journal.write()
        self._clear_leftovers({planned.key for planned in reused})

    def _clear_leftovers(self, keys: set[str]) -> None:
        """Delete the resume state of finished stages whose driver was killed just before it did."""
        for key in keys & set(self.store.folders(TRAINING)):
            owner = find_owner(self.store, key)
            if owner is None or owner.is_over or owner.is_expired:
                clear_training(self.store, key)

    def _enter_reused(self, name: str, why: str, manifest: Manifest) -> None:
        self.progress.enter(name, State.REUSED, Event(why, metrics=_values(manifest.metrics)))

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
            self.progress.export(has_ended=True)

    def _loop(self, cluster: Cluster, signals: Signals) -> None:
        run_id = self.journal.record.run_id
        ledger = _open_ledger(cluster, run_id)
        if not ledger.can_grow:
            self._refuse_the_impossible(cluster.machines())
        fleet = FleetWatch(cluster.machines, ledger.report)
        queue = StageQueue(self.plan, ledger, fleet.machines, self.lengths_s)
        channel = EventChannel(run_id)
        watch = RequestWatch(self.store, run_id, every_s=self.cancel_poll_s)
        with ledger, fleet, watch as requests:
            while self._is_unfinished:
                self._decide(channel, queue)
                self._await_news(channel, ledger)
                if signals.count or WHOLE_RUN in requests.names:
                    how = "interrupted" if signals.count else "cancelled"
                    self._interrupt(channel, ledger, signals, cluster, how=how)
                self._cancel(requests.names, channel)
                for name in self.owned.lost & self.stages.running.keys():
                    channel.request_stop(name)

    def _decide(self, channel: EventChannel, queue: StageQueue) -> None:
        """Start and block the stages that can start or can no longer run."""
        waiting = [name for name in self.owned.elsewhere if not self.owned.is_due(name)]
        found = queue.decide(self.journal.states, elsewhere=waiting)
        decisions = [one for one in found if isinstance(one, Block) or self._owns(one.stage)]
        # Reserve machines for all of them before the first begins, which may take the rest.
        for one in decisions:
            if isinstance(one, Start):
                queue.ledger.take(one.stage.name, one.stage.stage.resources, one.placement)
        for decision in decisions:
            self._carry_out(decision, channel, queue.ledger)
        elsewhere = self.owned.elsewhere
        self.journal.wait(queue.find_waits(self.journal.states, elsewhere=elsewhere))

    def _owns(self, planned: PlannedStage) -> bool:
        """Whether this run may start a stage now. Otherwise another run works on it or has
        finished it, and this is recorded."""
        name, is_known = planned.name, planned.name in self.owned.elsewhere
        try:
            taken = self.owned.take(name, planned.key)
        except StoreError:
            if not is_known:
                raise
            return False  # the journal reports an outage; the next look comes soon
        if isinstance(taken, Manifest):
            by = taken.provenance.get("run_id")
            self._enter_reused(name, f"run {by} finished it meanwhile", taken)
            self.journal.write()
            return False
        if not taken:
            self._wait_for_other(planned)
        return taken

    def _wait_for_other(self, planned: PlannedStage) -> None:
        """Show that another run works on a stage, or record it as an error if this run does not
        wait."""
        name = planned.name
        if not self.waits and not self.owned.is_by_this_run(planned.key):
            text = f"stages.{name}: {self.owned.elsewhere[name]}"
            error = StageHeldError(f"{text}; run again later, or without --no-wait to wait for it")
            self._fail(name, error)
            self.journal.write()
        elif (news := self.owned.news(name)) is not None:
            self.progress.enter(name, State.WAITING, Event(f"{news}; waiting"))

    def _cancel(self, requests: frozenset[str], channel: EventChannel) -> None:
        """Cancel the stages that were requested: at once if they wait, else after a checkpoint."""
        for planned in self.plan.stages:
            if planned.name not in requests:
                continue
            state = self.journal.states[planned.name]
            if state is State.WAITING:
                self.progress.enter(
                    planned.name, State.CANCELLED, Event("cancelled before it started")
                )
            elif state is State.RUNNING:
                channel.request_stop(planned.name)
                if planned.name not in self.cancelled:
                    self.cancelled.add(planned.name)
                    is_saved = can_stop(self.plan, planned)
                    text = "cancelling: waiting for its checkpoint" if is_saved else "cancelling"
                    self.progress.say(planned.name, text)

    def _interrupt(
        self,
        channel: EventChannel,
        ledger: Ledger,
        signals: Signals,
        cluster: Cluster,
        *,
        how: str,
    ) -> NoReturn:
        err = InterruptedRunError(
            f"{how}; finished stages and checkpoints are kept, and the same command resumes"
        )
        # Written before stages stop and the cluster is released, because SIGKILL may follow soon.
        self.journal.end(RunState.INTERRUPTED, error=_reason(err))
        self.progress.export(has_ended=True)
        exported_s, grace_s = time.monotonic(), stop_grace_s()
        num_signals = min(1, signals.count)
        for start in self._stopping(channel):
            text = f"stopping: waiting up to {grace_s:g} s for checkpoints"
            self.progress.watch(Update(start.stage.name, State.RUNNING, Event(text)))

        def is_awaited() -> bool:
            """Whether a stage may still write its checkpoint, or Ray export the run's end."""
            waited_s = time.monotonic() - exported_s
            is_scraped = cluster.own is None and self._is_busy() and waited_s < EXPORT_INTERVAL_S
            return waited_s < grace_s and (is_scraped or bool(self._stopping(channel)))

        # A second signal ends the wait.
        while signals.count <= num_signals and is_awaited():
            channel.request_stop()
            self._await_news(channel, ledger)
        self.journal.write()
        raise err

    def _stopping(self, channel: EventChannel) -> list[Start]:
        running = tuple(self.stages.running.values())
        return stopping(running, self.plan, self.journal.record, channel)

    def _await_news(self, channel: EventChannel, ledger: Ledger) -> None:
        """Wait a tick for a stage to end, and record the events of the stages."""
        ended = self.stages.await_end(timeout_s=TICK_S)
        if (loss := self.loss()) is not None:
            raise ClusterError(loss)
        # Wait for the last events of a stage that has ended. If it ended at once, the actor may
        # still be starting.
        self.progress.hear(
            channel.drain(timeout_s=FINAL_EVENTS_TIMEOUT_S) if ended else channel.drain()
        )
        self.progress.count(channel.take_amounts())
        self.progress.write_if_due(self.stages.running)
        if ended:
            start, result = ended
            self._record_end(start, result)
            self.owned.release(start.stage.name)
            ledger.release(start.stage.name)
            del self.stages.running[start.stage.name]
        self.progress.export_if_due()

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
            self.progress.enter(decision.stage.name, State.BLOCKED, Event(decision.why))
            self.journal.write()
            return
        channel.allow(decision.stage.name)
        self.progress.enter(
            decision.stage.name, State.RUNNING, Event(f"starting ({decision.stage.why})")
        )
        self.journal.write()
        provenance: dict[str, JsonValue] = {
            "job": self.plan.job.name,
            "run_id": self.journal.record.run_id,
            "started_at_s": time.time(),
            **self.origin.provenance,
            "resources": decision.stage.stage.resources.model_dump(mode="json"),
        }
        run = partial(
            run_stage,
            self.plan,
            decision.stage,
            slots=decision.slots,
            store=self.store,
            channel=channel,
            ledger=ledger,
            length_s=self.lengths_s.get(decision.stage.name, 0),
            provenance=provenance,
            records=self.origin.records,
            logs=self.logs,
            token=self.owned.token_of(decision.stage.name),
        )
        self.stages.start(decision, run)

    def _record_end(self, start: Start, result: Manifest | OrchestratorError) -> None:
        """Record how a stage ended. A stage that stopped with its run keeps its state, because the
        run's state explains it."""
        name = start.stage.name
        if isinstance(result, StoppedError) and self.journal.record.state is RunState.INTERRUPTED:
            self.progress.say(name, str(result).splitlines()[0])
        elif isinstance(result, StoppedError) and name in self.cancelled:
            self.progress.enter(name, State.CANCELLED, Event(str(result).splitlines()[0]))
        elif isinstance(result, OrchestratorError) and self.owned.has_lost(name):
            text = "another run has taken over this stage; waiting for its result"
            self.progress.enter(name, State.WAITING, Event(text))
        elif isinstance(result, OrchestratorError):
            if isinstance(result, DivergedError):
                attempt = self.journal.record.stages[name].attempt or 1
                self.progress.count([Amounts(name, attempt, nonfinite_losses=1)])
            self._fail(name, result)
        else:
            text = " ".join(f"{metric.name} {metric.value:.2f}" for metric in result.metrics)
            event = Event(text, metrics=_values(result.metrics))
            self.progress.enter(name, State.DONE, event)
        self.journal.write()

    def _fail(self, name: str, error: OrchestratorError) -> None:
        self.errors[name] = error
        event = Event(str(error).splitlines()[0])
        self.progress.enter(name, State.FAILED, event, error=str(error))


def _open_ledger(cluster: Cluster, run_id: str) -> Ledger:
    """A cluster that this process started has no other user and no autoscaler."""
    if cluster.own is not None:
        return Ledger(run_id)
    return Ledger(run_id, SharedGate(), can_grow=can_grow())


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
    lease_s: float = LEASE_S,
    waits: bool = True,
    kept: Mapping[str, bytes] = {},
) -> Outcome:
    """Run the stages of `plan` and record them as the job's last run. `kept` are files to keep with
    the record of the run, by name."""
    run_id = run_id or new_run_id()
    # The record is written before the job's pointer to it, so a reader always finds the record.
    journal = open_journal(store, plan, run_id=run_id)
    names = [row.name for row in plan.stages]
    lengths_s = critical_path_s(plan, load_durations(store, plan.job.name, names))
    write_last_run(store, plan, run_id=run_id)
    for name, content in kept.items():
        store.write(f"runs/{run_id}/{name}", content)
    progress = Progress(
        journal, watch, Tally({row.name: row.stage.metrics[0] for row in plan.stages})
    )
    owned = OwnedStages(store, run_id, plan.job.name, lease_s)
    run = Run(
        plan,
        store,
        progress,
        owned,
        cancel_poll_s=cancel_poll_s,
        logs=logs,
        waits=waits,
        lengths_s=lengths_s,
    )
    return run.execute(address)
