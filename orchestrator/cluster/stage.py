"""Run one stage on the cluster, from its first attempt to its manifest.

Each attempt reserves its own resources. If an attempt is lost for a temporary reason, another one
follows.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import JsonValue, ValidationError

from orchestrator.artifact import Artifact, Manifest, Ref
from orchestrator.cluster import one_worker
from orchestrator.cluster.attempt import Attempt
from orchestrator.cluster.connection import all_machines
from orchestrator.cluster.cost import (
    begin_attempt,
    cost_of_trials,
    earlier_attempts,
    end_attempt,
    note_attempts,
)
from orchestrator.cluster.events import EventChannel
from orchestrator.cluster.failures import (
    MAX_ATTEMPTS,
    Fail,
    LostAttemptError,
    decide_retry,
    failed_rank,
    first_line,
)
from orchestrator.cluster.ledger import Ledger
from orchestrator.cluster.machine import scratch_folder
from orchestrator.cluster.origin import Records
from orchestrator.cluster.placement import Room, pinned_selectors, roaming_selector
from orchestrator.cluster.usage import usage_facts
from orchestrator.contract import Event, Params
from orchestrator.errors import DataError, FailedWorker, JobError, LeaseLostError, StoreError
from orchestrator.fleet import groups_for
from orchestrator.monitoring.tally import Amounts
from orchestrator.numbers import count_text
from orchestrator.plan import Plan, PlannedStage
from orchestrator.spec import Stage, TuneParams, template_params, usable_counts
from orchestrator.store import open_store
from orchestrator.store.attempts import note_run
from orchestrator.store.lease import check_owner
from orchestrator.store.outside import fetch_outside, note_outside
from orchestrator.store.protocol import Store
from orchestrator.store.publish import (
    clear_training,
    fetch_artifact,
    load_manifest,
    publish_artifact,
    training_name,
)
from orchestrator.store.stage_logs import LogSettings
from orchestrator.store.training import Training
from orchestrator.store.trial_logs import load_logs

_importing = threading.Lock()
"""Held during imports of Ray Train and Ray Tune: stages run in threads, and two threads that import
them at the same time get modules that are not complete."""


def run_stage(
    plan: Plan,
    planned: PlannedStage,
    *,
    slots: int,
    store: Store,
    channel: EventChannel,
    ledger: Ledger,
    length_s: float,
    provenance: Mapping[str, JsonValue],
    records: Records,
    logs: LogSettings,
    token: int,
) -> Manifest:
    """Run a stage of `plan` and return its manifest. `slots` is the number of trials at a time,
    `length_s` the time to the end of the last stage that needs this one, `token` the token of the
    run's lease on the stage. Raises OrchestratorError."""
    training = Training(training_name(planned.key), token)
    runs = note_run(store, training.folder, str(provenance["run_id"]))
    earlier = earlier_attempts(
        store, training.folder, [run for run in runs if run != provenance["run_id"]]
    )
    provenance = {
        **provenance,
        "runs": list(runs),
        "lease_token": token,
        "attempts": earlier,
    }
    attempt = make_attempt(plan, planned, store, training, provenance)
    stage = planned.stage
    num_trials = stage.search.size if stage.search is not None else 1
    attempt = replace(attempt, logs=replace(logs, num_trials=num_trials), records=records)
    if stage.search is not None:
        counts = stage.worker_counts
        room = Room(
            stage.name, stage.resources, counts, ledger, channel, length_s, num_groups=slots
        )
        workers = sum(room.take(attempt).values())
        attempt = begin_attempt(replace(attempt, workers=workers), time.time())
        note_attempts(store, attempt)
        (metric,) = stage.metrics
        _search(attempt, stage.search, metric, room, most_slots=slots)
    else:
        counts = _usable_counts(stage, attempt.params)
        room = Room(stage.name, stage.resources, counts, ledger, channel, length_s)
        train(attempt, channel, room, store)
    manifest = load_manifest(store, planned.key)
    assert manifest is not None, "rank 0 publishes the manifest before its group ends"
    _clear(store, attempt, channel)
    return manifest


def _clear(store: Store, attempt: Attempt, channel: EventChannel) -> None:
    """Delete the resume state of a stage that is done. An error does not fail the stage."""
    try:
        clear_training(store, attempt.key)
    except StoreError as err:
        text = f"its resume state stays until the next run or `artifacts gc`: {err}"
        channel.send(attempt.says(Event(text), is_remark=True))


def _search(
    attempt: Attempt, params: TuneParams, metric: str, room: Room, *, most_slots: int
) -> None:
    search, publish_result = _import_search()
    channel = room.channel
    resources, workers, machines = attempt.resources, attempt.workers, all_machines()
    slots = groups_for(resources, machines, workers=workers, most=most_slots)
    if room.ledger.can_grow:  # trials that do not fit yet make the autoscaler start machines
        slots = most_slots
    selector = roaming_selector(resources, machines, num_workers=workers)
    attempt = replace(attempt, selectors=(selector,) * workers)
    with scratch_folder("orchestrator-tune-") as scratch:
        result, models = search(
            attempt, params, metric, slots=slots, channel=channel, scratch=scratch
        )
        store = open_store(attempt.store_uri)
        check_owner(store, attempt.key, attempt.training.token)
        publish_result(
            attempt,
            result,
            published=models,
            hardware=usage_facts(channel.notes(attempt.stage), attempt.number),
            cost=cost_of_trials(load_logs(store, attempt.training), attempt),
        )


def _usable_counts(stage: Stage, params: Params) -> tuple[int, ...]:
    """The allowed numbers of workers for the params with searched values. Raises JobError if there
    are none."""
    counts = usable_counts(stage.kind, params, stage.resources)
    if not counts:
        workers = stage.resources.workers
        raise JobError(
            f"stages.{stage.name}.resources.workers: no number of workers in {workers} fits the "
            "searched params, such as batch_size; change this range, or the search's space"
        )
    return counts


def make_attempt(
    plan: Plan,
    planned: PlannedStage,
    store: Store,
    training: Training,
    provenance: Mapping[str, JsonValue],
) -> Attempt:
    """Return the stage's first attempt, after publishing its inputs from outside the job.

    Raises OrchestratorError.
    """
    stage = planned.stage
    source = plan.job.stages[stage.search.of] if stage.search is not None else stage
    kind = source.kind
    assert kind.entry is not None, "a search's target is never a search"
    params = _effective_params(plan, planned, store)
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
        can_stop=kind.stops,
        seed=stage.seed,
        resources=stage.resources,
        workers=stage.worker_counts[0],
        selectors=(stage.resources.selector,) * stage.worker_counts[0],
        metric=stage.metrics[0] if stage is not source else kind.metrics(params)[0],
        # A trial keeps only its newest checkpoint: the search compares trials, not their epochs.
        keep_best=kind.keep_best(params) if stage is source else 0,
        inputs=_publish_inputs(plan, planned, store),
        store_uri=store.uri,
        training=training,
        provenance=provenance,
    )


def train(attempt: Attempt, channel: EventChannel, room: Room, store: Store) -> None:
    """Run attempts until the stage's manifest is published.

    Raises the worker's OrchestratorError, StageError if all attempts fail, or StoppedError if the
    stage is asked to stop.
    """
    num_lost = num_moves = 0
    while True:
        attempt = _sized(replace(attempt, number=num_lost + num_moves + 1), room)
        attempt = begin_attempt(attempt, time.time())
        note_attempts(store, attempt)
        event = Event(f"starting {count_text(attempt.workers, 'worker')}{_of(room.counts)}")
        channel.send(attempt.says(event, workers=attempt.workers))
        try:
            _run(attempt, channel)
        except LostAttemptError as err:
            lost = err.loss
            decision = decide_retry(
                lost,
                num_lost=num_lost,
                num_moves=num_moves,
                is_stopping=channel.is_stopping(attempt.stage),
                timeout_min=attempt.resources.collective_timeout_min,
            )
        else:
            return
        channel.count(
            Amounts(
                attempt.stage,
                attempt.number,
                retries=int(not isinstance(decision, Fail)),
                lost_attempts=int(decision.is_lost),
            )
        )
        why = first_line(decision.error) if isinstance(decision, Fail) else decision.why
        attempt = end_attempt(attempt, why, time.time())
        # After a lost lease, another run may have finished the stage and cleared this folder.
        if not (isinstance(decision, Fail) and isinstance(decision.error, LeaseLostError)):
            note_attempts(store, attempt)
        if isinstance(decision, Fail):
            decision.error.failed_worker = FailedWorker(
                attempt.number, failed_rank(lost), decision.is_lost
            )
            raise decision.error
        num_lost, num_moves = num_lost + (not decision.is_move), num_moves + decision.is_move
        next_one = f"attempt {num_lost + num_moves + 1} of {MAX_ATTEMPTS + num_moves}"
        channel.send(attempt.says(Event(f"{decision.why}; {next_one}"), lost=decision.why))


def _run(attempt: Attempt, channel: EventChannel) -> None:
    """Run one attempt until the stage's manifest is published. Raises LostAttemptError."""
    if not attempt.needs_group:
        one_worker.run(attempt, channel)
        return
    run_group = _import_group()
    run_group(attempt, channel, closes_stage=True)


def _import_search() -> tuple[Any, Any]:
    """Return `search` and `publish_result`. Ray Tune and torch take four seconds to import, and
    most runs have no search to do."""
    with _importing:
        from orchestrator.cluster.publishing import publish_result  # noqa: PLC0415
        from orchestrator.cluster.search import search  # noqa: PLC0415

    return search, publish_result


def _import_group() -> Any:
    """Return `group.run`. Ray Train and torch take four seconds to import."""
    with _importing:
        from orchestrator.cluster import group  # noqa: PLC0415

    return group.run


def _sized(attempt: Attempt, room: Room) -> Attempt:
    placement = room.take(attempt)
    workers = sum(placement.values())
    return replace(
        attempt,
        workers=workers,
        selectors=pinned_selectors(room.resources, placement),
        provenance={**attempt.provenance, "workers": workers},
    )


def _of(counts: tuple[int, ...]) -> str:
    return f" ({counts[0]} to {counts[-1]})" if len(counts) > 1 else ""


def _effective_params(plan: Plan, planned: PlannedStage, store: Store) -> Params:
    """Return the stage's params with searched values, or a search's template. Raises JobError if
    the values do not fit."""
    stage = planned.stage
    if stage.search is not None:
        template: Params = template_params(plan.job, stage)
        return template
    params: Params = stage.params
    if stage.params_from is None:
        return params
    with scratch_folder("orchestrator-params-") as scratch:
        artifact = _published_output(plan, planned, stage.params_from, store)
        folder = fetch_artifact(store, artifact, scratch, key=plan[stage.params_from.stage].key)
        searched: dict[str, Any] = json.loads((folder / "best_params.json").read_text())
    try:
        return params.overlay(searched)
    except ValidationError as err:
        raise JobError(
            f"stages.{stage.name}: the values of {stage.params_from}, {searched}, are not valid "
            f"here: {err}; remove params_from, or correct the space of the search"
        ) from err


def _publish_inputs(plan: Plan, planned: PlannedStage, store: Store) -> dict[str, Artifact]:
    """Return the stage's inputs by field, all of them in the store. Files from outside the job are
    published first, after a note for `artifacts gc`: until the manifest exists, nothing else names
    them."""
    stage = planned.stage
    if stage.files:
        note_outside(store, planned.key, [_outside_sha256(planned, name) for name in stage.files])
    return {
        **{
            name: _published_output(plan, planned, ref, store) for name, ref in stage.inputs.items()
        },
        **{
            name: _publish_outside(planned, name, location, store)
            for name, location in stage.files.items()
        },
    }


def _published_output(plan: Plan, planned: PlannedStage, ref: Ref, store: Store) -> Artifact:
    manifest = load_manifest(store, plan[ref.stage].key)
    assert manifest is not None, "a stage starts after the stages that it needs"
    if ref.output not in manifest.artifacts:
        raise JobError(
            f"stages.{planned.name}: {ref} does not exist: the best trial of {ref.stage} was "
            "stopped early and has no model; increase num_trials or set scheduler: {name: none}"
        )
    return manifest.artifacts[ref.output]


def _publish_outside(planned: PlannedStage, field: str, location: str, store: Store) -> Artifact:
    """Publish a file from outside the job, so that workers read it from the store and its bytes are
    kept."""
    with scratch_folder("orchestrator-outside-") as scratch:
        fetch_outside(location, scratch)
        artifact = publish_artifact(store, scratch, always=bool(planned.recipe.get("rerun")))
    if artifact.files[0].sha256 != _outside_sha256(planned, field):
        raise DataError(f"{location}: changed after the run was planned; run the job again")
    return artifact


def _outside_sha256(planned: PlannedStage, field: str) -> str:
    inputs = planned.recipe["inputs"]
    assert isinstance(inputs, dict)
    read = inputs[field]
    assert isinstance(read, dict)
    return str(read["sha256"])
