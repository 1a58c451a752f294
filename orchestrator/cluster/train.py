"""The attempts at a stage: each on room of its own, and another one after a loss that may pass."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.cluster import one_worker
from orchestrator.cluster.attempt import Attempt
from orchestrator.cluster.events import EventChannel
from orchestrator.cluster.failures import MAX_ATTEMPTS, Fail, LostAttemptError, decide_retry
from orchestrator.cluster.placement import Room
from orchestrator.contract import Event


def train(attempt: Attempt, channel: EventChannel, room: Room) -> None:
    """Run the stage to its manifest.

    Raises the worker's OrchestratorError, StageError when all attempts fail, StoppedError in an
    interrupted run.
    """
    num_lost = num_moves = 0
    while True:
        attempt = _sized(replace(attempt, number=num_lost + num_moves + 1), room)
        channel.send(
            attempt.says(Event(f"starting {_counted(attempt.workers, 'worker')}{_of(room.counts)}"))
        )
        try:
            _run(attempt, channel)
        except LostAttemptError as err:
            decision = decide_retry(
                err.loss,
                num_lost=num_lost,
                num_moves=num_moves,
                is_interrupted=channel.is_stopping(),
                timeout_min=attempt.resources.collective_timeout_min,
            )
        else:
            return
        if isinstance(decision, Fail):
            raise decision.error
        num_lost, num_moves = num_lost + (not decision.is_move), num_moves + decision.is_move
        next_one = f"attempt {num_lost + num_moves + 1} of {MAX_ATTEMPTS + num_moves}"
        channel.send(attempt.says(Event(f"{decision.why}; {next_one}"), lost=decision.why))


def _run(attempt: Attempt, channel: EventChannel) -> None:
    """Run one attempt to the stage's manifest. Raises LostAttemptError."""
    if not attempt.needs_group:
        one_worker.run(attempt, channel)
        return
    from orchestrator.cluster import group  # noqa: PLC0415  Ray Train and torch take four seconds to import

    group.run(attempt, channel, closes_stage=True)


def _sized(attempt: Attempt, room: Room) -> Attempt:
    workers = room.take(attempt)
    return replace(attempt, workers=workers, provenance={**attempt.provenance, "workers": workers})


def _of(counts: tuple[int, ...]) -> str:
    return f" ({counts[0]} to {counts[-1]})" if len(counts) > 1 else ""


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
