"""The loop of one run: decide which stage starts, start it, hear of its progress and its end, write it all down."""

from __future__ import annotations

import json
import queue
import secrets
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from types import FrameType

from pydantic import JsonValue

from orchestrator.artifact import Manifest
from orchestrator.cluster.connection import Cluster, connected
from orchestrator.cluster.events import EventChannel, StageEvent
from orchestrator.cluster.stage import StageRun
from orchestrator.contract import Event
from orchestrator.errors import ClusterError, InterruptedRunError, OrchestratorError, StageError
from orchestrator.history import write_last_run
from orchestrator.plan import Plan, PlannedStage, Verdict
from orchestrator.schedule import Block, Capacity, Machine, Start, State, decide, shortfall
from orchestrator.store.protocol import Store

TICK_S = 0.2
FLUSH_S = 5.0
"""Events reach the store in batches of this age."""


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
    """One invocation of `run`: the states of its stages, and its record in the store."""

    plan: Plan
    """The stages to run or reuse; each one's needs are among them."""
    store: Store
    watch: Watcher
    run_id: str = field(default_factory=lambda: time.strftime("%Y%m%dT%H%M%S-") + secrets.token_hex(3))
    states: dict[str, State] = field(default_factory=dict)
    errors: dict[str, OrchestratorError] = field(default_factory=dict)
    ended: queue.Queue[tuple[Start, Manifest | OrchestratorError]] = field(default_factory=queue.Queue)
    unwritten: list[StageEvent] = field(default_factory=list)
    num_batches: int = 0
    flushed_s: float = 0.0

    def execute(self, address: str | None) -> Outcome:
        """Run what is not reused; stages' errors are in the outcome.

        Raises ClusterError, StoreError and InterruptedRunError.
        """
        for planned in self.plan.stages:
            self.states[planned.name] = State.WAITING
            if planned.verdict is Verdict.REUSE:
                self._set_state(planned, State.REUSED, planned.why)
        self._write_record("running")
        try:
            if any(not state.is_final for state in self.states.values()):
                with connected(address) as cluster, _signals_as_flag() as interrupted:
                    self._loop(cluster, interrupted)
        except BaseException as err:
            was_interrupted = isinstance(err, InterruptedRunError | KeyboardInterrupt)
            self._write_record("interrupted" if was_interrupted else "failed")
            raise
        self._write_record("failed" if self.errors else "done")
        return Outcome(self.states, self.errors)

    def _loop(self, cluster: Cluster, interrupted: threading.Event) -> None:
        machines = cluster.machines()
        self._refuse_the_impossible(machines)
        free = sum((machine.capacity for machine in machines), Capacity(0, 0))
        channel = EventChannel()
        while any(not state.is_final for state in self.states.values()):
            for decision in list(decide(self.plan, self.states, free=free)):
                free -= self._act(decision, channel)
            free += self._await_end()
            self._hear(channel.drain())
            if interrupted.is_set():
                self._flush()
                raise InterruptedRunError(
                    "interrupted; what was finished is kept, and the same command goes on from there"
                )
        self._hear(channel.drain())
        self._flush()

    def _refuse_the_impossible(self, machines: tuple[Machine, ...]) -> None:
        waiting = [planned for planned in self.plan.stages if not self.states[planned.name].is_final]
        reasons = [reason for planned in waiting if (reason := shortfall(planned, machines))]
        if reasons:
            raise ClusterError("\n".join(reasons))

    def _act(self, decision: Start | Block, channel: EventChannel) -> Capacity:
        """Carry a decision out; returns the capacity that it takes."""
        if isinstance(decision, Block):
            self._set_state(decision.stage, State.BLOCKED, decision.why)
            return Capacity(0, 0)
        self._set_state(decision.stage, State.RUNNING, decision.stage.why)
        provenance: dict[str, JsonValue] = {
            "job": self.plan.job.name,
            "run_id": self.run_id,
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

    def _await_end(self) -> Capacity:
        """Wait a tick for a stage to end; returns the capacity that it frees."""
        try:
            start, result = self.ended.get(timeout=TICK_S)
        except queue.Empty:
            return Capacity(0, 0)
        if isinstance(result, OrchestratorError):
            self.errors[start.stage.name] = result
            self._set_state(start.stage, State.FAILED, str(result).splitlines()[0])
        else:
            metrics = " ".join(f"{metric.name} {metric.value:.2f}" for metric in result.metrics)
            self._set_state(start.stage, State.DONE, metrics)
        return start.capacity

    def _set_state(self, planned: PlannedStage, state: State, text: str) -> None:
        self.states[planned.name] = state
        self.unwritten.append(StageEvent(planned.name, time.time(), Event(f"{state}: {text}")))
        self.watch(Update(planned.name, state, Event(text)))
        if state is not State.REUSED:
            self._flush()
            self._write_record("running")

    def _hear(self, events: list[StageEvent]) -> None:
        for heard in events:
            self.watch(Update(heard.stage, self.states[heard.stage], heard.event))
        self.unwritten += events
        if time.monotonic() - self.flushed_s > FLUSH_S:
            self._flush()

    def _flush(self) -> None:
        """Write the events that are not yet in the store, as one batch."""
        self.flushed_s = time.monotonic()
        if not self.unwritten:
            return
        lines = "".join(json.dumps(asdict(event)) + "\n" for event in self.unwritten)
        self.num_batches += 1
        self.store.write(f"runs/{self.run_id}/events/{self.num_batches:06d}.jsonl", lines.encode())
        self.unwritten.clear()

    def _write_record(self, state: str) -> None:
        stages = {
            planned.name: {
                "key": planned.key,
                "state": str(self.states[planned.name]),
                "error": str(self.errors[planned.name]) if planned.name in self.errors else None,
            }
            for planned in self.plan.stages
            if planned.name in self.states
        }
        record = {"schema": 1, "run_id": self.run_id, "job": self.plan.job.name, "state": state, "stages": stages}
        self.store.write(f"runs/{self.run_id}/run.json", json.dumps(record, indent=2).encode())


def run_plan(plan: Plan, store: Store, *, only: tuple[str, ...], address: str | None, watch: Watcher) -> Outcome:
    """Run the stages of `plan`, or just `only` with what they need; writes the plan down as the job's last run."""
    run = Run(select(plan, only) if only else plan, store, watch)
    write_last_run(store, plan, run_id=run.run_id)
    return run.execute(address)


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
