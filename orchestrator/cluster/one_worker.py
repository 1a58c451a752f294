"""Run the only worker of an attempt in its own Ray actor. Without peers it does not need Ray
Train."""

from __future__ import annotations

from contextlib import chdir

import ray

from orchestrator.cluster.attempt import Attempt
from orchestrator.cluster.connection import MACHINE_LABEL, all_machines
from orchestrator.cluster.events import NAMESPACE, EventChannel
from orchestrator.cluster.failures import ROOM_IS_TAKEN, LostAttempt, LostAttemptError, first_line
from orchestrator.cluster.log_capture import captured_output
from orchestrator.cluster.machine import scratch_folder
from orchestrator.errors import StoppedError

START_TIMEOUT_S = 300.0
"""The same as for a group: a busy machine takes a minute to start a process."""
_CHECK_INTERVAL_S = 1.0


class StageWorker:
    """A stateless actor. Its methods run in threads, as in the workers of a group."""

    def ready(self) -> None:
        """Return once the process exists."""

    def run(self, attempt: Attempt, channel: EventChannel) -> None:
        """Run the attempt until the manifest of its stage is published. Raises what `run_pipeline`
        raises."""
        with captured_output(attempt, rank=0, world_size=1):
            from orchestrator.cluster.worker import only_worker, run_pipeline  # noqa: PLC0415  torch, after `ready`

            worker = only_worker(attempt.resources, report_metrics=lambda _: None)
            # Files that a library writes to the current folder are deleted afterwards.
            with scratch_folder("orchestrator-worker-") as folder, chdir(folder):
                run_pipeline(attempt, worker, channel, closes_stage=True)


def run(attempt: Attempt, channel: EventChannel) -> None:
    """Run one attempt until the stage's manifest is published.

    Raises LostAttemptError, or StoppedError if it is stopped before the worker has started.
    """
    resources = attempt.resources
    worker = (
        ray.remote(StageWorker)
        .options(
            name=f"{attempt.ray_name}-{attempt.provenance['run_id']}-{attempt.number}",
            namespace=NAMESPACE,
            num_cpus=resources.cpus_per_worker,
            num_gpus=resources.gpus_per_worker,
            memory=resources.memory_bytes_per_worker or None,
            label_selector=dict(attempt.selectors[0]) or None,
            max_concurrency=2,  # so that `run` does not use the main thread of the process
        )
        .remote()
    )
    try:
        _await_start(worker, attempt, channel)
        ray.get(worker.run.remote(attempt, channel))
    except ray.exceptions.RayTaskError as err:
        raise LostAttemptError(LostAttempt({0: err.cause})) from err
    except ray.exceptions.RayActorError as err:
        raise LostAttemptError(_loss_of(err)) from err
    except ray.exceptions.RayError as err:
        raise LostAttemptError(LostAttempt({}, cause=first_line(err))) from err
    finally:
        ray.kill(worker)


def _await_start(worker: ray.actor.ActorHandle, attempt: Attempt, channel: EventChannel) -> None:
    """Wait until the worker's process exists. Other users of the cluster may take the free
    resources first."""
    answer = worker.ready.remote()
    for _ in range(round(START_TIMEOUT_S / _CHECK_INTERVAL_S)):
        if ray.wait([answer], timeout=_CHECK_INTERVAL_S)[0]:
            ray.get(answer)
            return
        if channel.is_stopping(attempt.stage):
            raise StoppedError("stopped before the worker had started")
        if not _exists(attempt.selectors[0].get(MACHINE_LABEL)):
            raise LostAttemptError(LostAttempt({}, is_move=True, cause="its machine has left"))
    raise LostAttemptError(LostAttempt({}, is_move=True, cause=ROOM_IS_TAKEN))


def _exists(machine: str | None) -> bool:
    """Whether the machine to which the worker is pinned is neither gone nor leaving."""
    return machine is None or any(one.name == machine for one in all_machines())


def _loss_of(err: ray.exceptions.RayActorError) -> LostAttempt:
    cause = _cause(str(err))
    return LostAttempt({0: RuntimeError(cause)}, is_move=err.preempted, cause=cause)


def _cause(text: str) -> str:
    """Shorten Ray's message to one line: which process ended, on which machine, and why if
    known."""
    facts = dict(
        line.strip().partition(": ")[::2] for line in text.splitlines() if line.startswith("\t")
    )
    machine = facts.get("ip", "unknown")
    if "its node has died" in text:
        return f"its machine {machine} is lost"
    if "OUT_OF_MEMORY" in text or "running low on memory" in text:
        return (
            f"machine {machine} ran low on memory, so Ray ended the worker's process; set "
            "resources.memory_gib_per_worker"
        )
    return (
        f"its process ({facts.get('pid', 'unknown')} on {machine}) was killed or crashed, perhaps "
        "because memory ran out"
    )
