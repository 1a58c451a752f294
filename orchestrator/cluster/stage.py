"""Run one stage on the cluster, from its first attempt to its manifest.

Each attempt reserves its own resources. If an attempt is lost for a temporary reason, another one
follows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pydantic import JsonValue

from orchestrator.artifact import Manifest
from orchestrator.capacity import groups_for
from orchestrator.cluster import one_worker
from orchestrator.cluster.attempt import Attempt
from orchestrator.cluster.connection import all_machines
from orchestrator.cluster.events import EventChannel
from orchestrator.cluster.failures import MAX_ATTEMPTS, Fail, LostAttemptError, decide_retry
from orchestrator.cluster.inputs import effective_params, publish_inputs
from orchestrator.cluster.machine import scratch_folder
from orchestrator.cluster.placement import Ledger, Room
from orchestrator.contract import Event, Params
from orchestrator.errors import JobError
from orchestrator.plan import Plan, PlannedStage
from orchestrator.spec import Stage, TuneParams, usable_counts
from orchestrator.store.protocol import Store
from orchestrator.store.publish import load_manifest, training_name


def run_stage(
    plan: Plan,
    planned: PlannedStage,
    *,
    slots: int,
    store: Store,
    channel: EventChannel,
    ledger: Ledger,
    provenance: Mapping[str, JsonValue],
) -> Manifest:
    """Run a stage of `plan` and return its manifest. `slots` is the number of trials at a time.
    Raises OrchestratorError."""
    attempt = make_attempt(plan, planned, store, provenance)
    stage = planned.stage
    if stage.search is not None:
        room = Room(stage.name, stage.resources, stage.worker_counts, ledger, channel)
        attempt = replace(attempt, workers=room.take(attempt))
        (metric,) = stage.metrics
        _search(attempt, stage.search, metric, most_slots=slots, channel=channel)
    else:
        counts = _usable_counts(stage, attempt.params)
        train(attempt, channel, Room(stage.name, stage.resources, counts, ledger, channel))
    manifest = load_manifest(store, planned.key)
    assert manifest is not None, "rank 0 publishes the manifest before its group ends"
    return manifest


def _search(
    attempt: Attempt, params: TuneParams, metric: str, *, most_slots: int, channel: EventChannel
) -> None:
    # Importing Ray Tune and torch takes four seconds, and most runs have no search to do.
    from orchestrator.cluster.publishing import publish_result  # noqa: PLC0415
    from orchestrator.cluster.search import search  # noqa: PLC0415

    slots = groups_for(attempt.resources, all_machines(), workers=attempt.workers, most=most_slots)
    with scratch_folder("orchestrator-tune-") as scratch:
        result, models = search(
            attempt, params, metric, slots=slots, channel=channel, scratch=scratch
        )
        publish_result(attempt, result, published=models)


def _usable_counts(stage: Stage, params: Params) -> tuple[int, ...]:
    """The allowed numbers of workers for the params with searched values. Raises JobError if there
    are none."""
    counts = usable_counts(stage.kind, params, stage.resources)
    if not counts:
        workers = stage.resources.workers
        raise JobError(
            f"stages.{stage.name}.resources.workers: no number of workers in {workers} fits the "
            "searched params"
        )
    return counts


def make_attempt(
    plan: Plan, planned: PlannedStage, store: Store, provenance: Mapping[str, JsonValue]
) -> Attempt:
    """Return the stage's first attempt, after publishing its inputs from outside the job.

    Raises OrchestratorError.
    """
    stage = planned.stage
    source = plan.job.stages[stage.search.of] if stage.search is not None else stage
    kind = source.kind
    assert kind.entry is not None, "a search's target is never a search"
    params = effective_params(plan, planned, store)
    return Attempt(
        stage=planned.name,
        number=1,
        trial=None,
        kind=stage.kind.name,
        entry=kind.entry,
        key=planned.key,
        recipe=planned.recipe,
        params=params,
        fingerprint=kind.fingerprint,
        stated_data=str(planned.recipe["data"])
        if stage.data_fingerprint or source.data_fingerprint
        else None,
        reads=kind.reads,
        seed=stage.seed,
        resources=stage.resources,
        workers=stage.worker_counts[0],
        metric=stage.metrics[0] if stage is not source else kind.metrics(params)[0],
        # Trials keep only the newest: a search is for the best of them all.
        keep_best=kind.keep_best(params) if stage is source else 0,
        inputs=publish_inputs(plan, planned, store),
        store_uri=store.uri,
        training=training_name(planned.key),
        provenance=provenance,
    )


def train(attempt: Attempt, channel: EventChannel, room: Room) -> None:
    """Run attempts until the stage's manifest is published.

    Raises the worker's OrchestratorError, StageError if all attempts fail, or StoppedError if the
    run is interrupted.
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
    """Run one attempt until the stage's manifest is published. Raises LostAttemptError."""
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
