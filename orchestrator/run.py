"""The loop of one run: decide which stage starts, start it, hear of its progress and its end, tell the journal."""

from __future__ import annotations

import queue
import secrets
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import NoReturn

from pydantic import JsonValue

from orchestrator.artifact import Manifest, Metric
from orchestrator.cluster.connection import Cluster, connected
from orchestrator.cluster.events import EventChannel
from orchestrator.cluster.stage import StageRun
from orchestrator.contract import Event
from orchestrator.errors import ClusterError, InterruptedRunError, OrchestratorError, StageError
from orchestrator.history import write_last_run
from orchestrator.journal import Journal, open_journal
from orchestrator.plan import Plan, PlannedStage, Verdict
from orchestrator.record import RunState, StageEvent
from orchestrator.schedule import Block, Capacity, Machine, Start, State, decide, shortfall
from orchestrator.store.protocol import Store
from orchestrator.store.publish import load_manifest

TICK_S = 0.2


@dataclass(frozen=True)
class Update:
    """What a watcher hears: a stage's state, and the event that brought the news."""

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
        """0 when all went well; the errors' own code when they agree on one; else 1."""
        codes = {error.exit_code for error in self.errors.values()}
        if not codes:
            return 0
        return codes.pop() if len(codes) == 1 else OrchestratorError.exit_code


@dataclass
class Run:
    """One invocation of `run`."""

    plan: Plan
    """The stages to run or reuse; each one's needs are among them."""
    store: Store
    journal: Journal
    watch: Watcher
    errors: dict[str, OrchestratorError] = field(default_factory=dict)
    ended: queue.Queue[tuple[Start, Manifest | OrchestratorError]] = field(default_factory=queue.Queue)

    def execute(self, address: str | None) -> Outcome:
        """Run what is not reused; stages' errors are in the outcome.

        Raises ClusterError, StoreError and InterruptedRunError.
        """
        try:
            self._reuse()
            if self._is_unfinished:
                with connected(address) as cluster, _signals_as_flag() as interrupted:
                    self._loop(cluster, interrupted)
        except InterruptedRunError:
            raise
        except BaseException as err:
            was_interrupted = isinstance(err, KeyboardInterrupt)
            self.journal.end(RunState.INTERRUPTED if was_interrupted else RunState.FAILED, error=_reason(err))
            raise
        self.journal.end(RunState.FAILED if self.errors else RunState.DONE)
        return Outcome(self.journal.states, self.errors)

    @property
    def _is_unfinished(self) -> bool:
        return any(not state.is_final for state in self.journal.states.values())

    def _reuse(self) -> None:
        for planned in self.plan.stages:
            if planned.verdict is Verdict.REUSE:
                manifest = load_manifest(self.store, planned.key)
                assert manifest is not None, "a manifest is never deleted while a run is under way"
                self._enter(planned, State.REUSED, Event(planned.why, metrics=_values(manifest.metrics)))
        self.journal.write()

    def _loop(self, cluster: Cluster, interrupted: threading.Event) -> None:
        machines = cluster.machines()
        self._refuse_the_impossible(machines)
        free = sum((machine.capacity for machine in machines), Capacity(0, 0))
        channel = EventChannel(self.journal.record.run_id)
        while self._is_unfinished:
            for decision in list(decide(self.plan, self.journal.states, free=free)):
                free -= self._act(decision, channel)
            ended = self._await_end()
            self._hear(channel.drain())
            if ended:
                free += self._close(*ended)
            if interrupted.is_set():
                self._interrupt()

    def _interrupt(self) -> NoReturn:
        err = InterruptedRunError("interrupted; what was finished is kept, and the same command goes on from there")
        # Written before the cluster is let go: who sent the signal may send SIGKILL three seconds later.
        self.journal.end(RunState.INTERRUPTED, error=_reason(err))
        raise err

    def _refuse_the_impossible(self, machines: tuple[Machine, ...]) -> None:
        waiting = [planned for planned in self.plan.stages if not self.journal.states[planned.name].is_final]
        reasons = [reason for planned in waiting if (reason := shortfall(planned, machines))]
        if reasons:
            raise ClusterError("\n".join(reasons))

    def _act(self, decision: Start | Block, channel: EventChannel) -> Capacity:
        """Carry a decision out; returns the capacity that it takes."""
        if isinstance(decision, Block):
            self._enter(decision.stage, State.BLOCKED, Event(decision.why))
            self.journal.write()
            return Capacity(0, 0)
        self._enter(decision.stage, State.RUNNING, Event(f"starting: {decision.stage.why}"))
        self.journal.write()
        provenance: dict[str, JsonValue] = {
            "job": self.plan.job.name,
            "run_id": self.journal.record.run_id,
            "started_at_s": time.time(),
            "resources": decision.stage.stage.resources.model_dump(mode="json"),
        }
        stage_run = StageRun(self.plan, decision.stage, decision.slots, self.store, channel, provenance)
        # A daemon: an interrupted run must not wait for a training to end.
        threading.Thread(target=self._run_stage, args=(decision, stage_run), daemon=True).start()
        return decision.capacity

    def _run_stage(self, start: Start, stage_run: StageRun) -> None:
        try:
            self.ended.put((start, stage_run.run()))
        except OrchestratorError as err:
            self.ended.put((start, err))
        except Exception as err:  # noqa: BLE001  the thread's edge: the loop must hear of any end
            reason = f"{type(err).__name__}: {err}\n{traceback.format_exc()}"
            self.ended.put((start, StageError(reason)))

    def _await_end(self) -> tuple[Start, Manifest | OrchestratorError] | None:
        """Wait a tick for a stage to end."""
        try:
            return self.ended.get(timeout=TICK_S)
        except queue.Empty:
            return None

    def _close(self, start: Start, result: Manifest | OrchestratorError) -> Capacity:
        """Note how a stage ended; returns the capacity that it frees."""
        name = start.stage.name
        if isinstance(result, OrchestratorError):
            self.errors[name] = result
            self._enter(start.stage, State.FAILED, Event(str(result).splitlines()[0]), error=str(result))
        else:
            text = " ".join(f"{metric.name} {metric.value:.2f}" for metric in result.metrics)
            self._enter(start.stage, State.DONE, Event(text, metrics=_values(result.metrics)))
        self.journal.write()
        return start.capacity

    def _enter(self, planned: PlannedStage, state: State, event: Event, *, error: str | None = None) -> None:
        self.journal.enter(planned.name, state, event, error=error)
        self.watch(Update(planned.name, state, event))

    def _hear(self, events: list[StageEvent]) -> None:
        for heard in events:
            stage = self.journal.hear(heard)
            # A watcher sees how far the stage is: a search's trials have progress of their own.
            done = stage.newest.done if stage.newest else None
            self.watch(Update(heard.stage, stage.state, replace(heard.event, done=done, total=stage.total)))
        self.journal.write_if_due()


def _values(metrics: tuple[Metric, ...]) -> dict[str, float]:
    return {metric.name: metric.value for metric in metrics}


def _reason(err: BaseException) -> str:
    return str(err) if isinstance(err, OrchestratorError) else f"{type(err).__name__}: {err}".removesuffix(": ")


def run_plan(plan: Plan, store: Store, *, only: tuple[str, ...], address: str | None, watch: Watcher) -> Outcome:
    """Run the stages of `plan`, or just `only` with what they need; writes the plan down as the job's last run."""
    part = select(plan, only) if only else plan
    run_id = time.strftime("%Y%m%dT%H%M%S-") + secrets.token_hex(3)
    # The record before the job's pointer to it: a reader never finds a run without one.
    journal = open_journal(store, part, run_id=run_id)
    write_last_run(store, plan, run_id=run_id)
    return Run(part, store, journal, watch).execute(address)


def select(plan: Plan, names: tuple[str, ...]) -> Plan:
    """The part of `plan` that holds the stages `names` and all that they need."""
    wanted = set(names)
    for planned in reversed(plan.stages):
        if planned.name in wanted:
            wanted.update(planned.stage.needs)
    return Plan(plan.job, tuple(planned for planned in plan.stages if planned.name in wanted))


@contextmanager
def _signals_as_flag() -> Iterator[threading.Event]:
    """Turn Ctrl-C and SIGTERM into a flag; after ray.init, which puts in handlers of its own."""
    flag = threading.Event()

    def set_flag(signum: int, frame: FrameType | None) -> None:
        flag.set()

    before = {signum: signal.signal(signum, set_flag) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield flag
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
