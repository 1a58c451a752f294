"""The code around a pipeline in a worker: fetch inputs, call the entry point, publish the outputs
and the manifest."""

from __future__ import annotations

import importlib
import logging
import math
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.cluster.attempt import Attempt
from orchestrator.cluster.connection import is_leaving
from orchestrator.cluster.events import EventChannel
from orchestrator.cluster.failures import as_raised, is_loss_of_loader, is_loss_of_peer, is_stuck
from orchestrator.cluster.hardware import torch_facts
from orchestrator.cluster.machine import (
    check_read,
    check_store,
    end_process,
    input_bytes,
    is_full_disk,
    scratch_folder,
)
from orchestrator.cluster.publishing import publish_result
from orchestrator.cluster.stopping import StopWatch
from orchestrator.cluster.store_news import store_news
from orchestrator.cluster.trial_log import IS_LAST, Logbook
from orchestrator.cluster.uploads import Cost, Uploads
from orchestrator.cluster.usage import metered
from orchestrator.contract import Entry, Event, StageContext, StageResult
from orchestrator.errors import OrchestratorError, StageError, StoppedError
from orchestrator.monitoring.tally import Amounts
from orchestrator.spec import Resources
from orchestrator.store import Store, open_store
from orchestrator.store.checkpoints import (
    CheckpointName,
    Newest,
    commit_checkpoint,
    fetch_checkpoint,
    fetch_newest_checkpoint,
)
from orchestrator.store.input_cache import input_cache
from orchestrator.store.lease import check_owner
from orchestrator.store.publish import fetch_artifact

_log = logging.getLogger(__name__)
"""Progress for the worker's own log, in `log_capture`; the driver gets it as events."""


@dataclass(frozen=True)
class WorkerRank:
    """A worker's rank in its group, its device, and its functions for talking to Ray."""

    rank: int
    world_size: int
    device: str
    report_metrics: Callable[[Mapping[str, float]], None]
    """Passes the metrics of one report to Ray. Every rank must call it."""
    broadcast_from_rank_zero: Callable[[CheckpointName | None], CheckpointName | None]
    """Returns rank 0's argument on every rank. Every rank must call it."""
    is_leaving: Callable[[], bool]
    """Whether a machine of the group has a drain notice."""


def only_worker(
    resources: Resources, *, report_metrics: Callable[[Mapping[str, float]], None]
) -> WorkerRank:
    """Return the WorkerRank of an attempt's only worker, which has no group."""
    return WorkerRank(
        rank=0,
        world_size=1,
        device="cuda:0" if resources.gpus_per_worker > 0 and _has_gpu() else "cpu",
        report_metrics=report_metrics,
        broadcast_from_rank_zero=lambda name: name,
        is_leaving=is_leaving,
    )


def _has_gpu() -> bool:
    import torch  # noqa: PLC0415  takes two seconds, which a stage on the CPU may not need

    return torch.cuda.is_available()


def run_pipeline(
    attempt: Attempt,
    worker: WorkerRank,
    channel: EventChannel,
    *,
    closes_stage: bool,
    label: str = "",
) -> StageResult:
    """Run the attempt's entry point in this process, with `label` before the texts of its events.

    If `closes_stage`, rank 0 publishes the outputs and the manifest. Raises OrchestratorErrors, and
    the loss of a peer or of a loader process, unchanged. Raises MachineError for a full disk, and
    StageError for anything else.
    """

    def report_store(text: str) -> None:
        if worker.rank == 0:
            channel.send(attempt.says(Event(label + text)))

    room = scratch_folder(f"orchestrator-{attempt.kind}-", num_bytes=input_bytes(attempt))
    usage = metered(
        attempt, channel, rank=worker.rank, world_size=worker.world_size, device=worker.device
    )
    with room as scratch, store_news(report_store), usage as facts:
        check_store(attempt, is_writer=worker.rank == 0)
        if worker.rank == 0:
            check_read(attempt)
        logbook = _logbook(attempt, worker)
        result = _run_until_stopped(attempt, worker, channel, scratch, label, logbook)
        if logbook is not None:
            logbook.finish(result)
        if closes_stage and worker.rank == 0:
            check_owner(open_store(attempt.store_uri), attempt.key, attempt.training.token)
            publish_result(attempt, result, hardware={**torch_facts(), **facts()})
        return result


def _logbook(attempt: Attempt, worker: WorkerRank) -> Logbook | None:
    """Return the trial's log on rank 0 if the stage is a search."""
    if attempt.trial is None or worker.rank != 0:
        return None
    return Logbook(
        open_store(attempt.store_uri),
        attempt.training,
        attempt.metric,
        uploads_always=attempt.is_forced,
    )


def _run_until_stopped(
    attempt: Attempt,
    worker: WorkerRank,
    channel: EventChannel,
    scratch: Path,
    label: str,
    logbook: Logbook | None,
) -> StageResult:
    """Return the pipeline's result after all its checkpoints are committed."""
    store = open_store(attempt.store_uri)

    def commit(folder: Path, score: float | None) -> None:
        check_owner(store, attempt.key, attempt.training.token)
        commit_checkpoint(store, attempt.training, folder, score=score, keep_best=attempt.keep_best)

    def count(cost: Cost) -> None:
        amounts = Amounts(
            attempt.stage,
            attempt.number,
            checkpoint_s=cost.blocked_s,
            upload_s=cost.upload_s,
            upload_bytes=cost.upload_bytes,
        )
        channel.count(amounts)

    try:
        with (
            _stop_watch(attempt, worker, channel) as watch,
            Uploads(commit, on_cost=count) as uploads,
        ):
            context = _context(
                attempt,
                worker,
                channel,
                scratch,
                label,
                store=store,
                watch=watch,
                uploads=uploads,
                logbook=logbook,
            )
            return _call(attempt, context)
    except StoppedError:
        # Ray ends the group at its first error, so the other ranks wait here until rank 0 has
        # finished its upload.
        worker.broadcast_from_rank_zero(None)
        raise


def _stop_watch(attempt: Attempt, worker: WorkerRank, channel: EventChannel) -> StopWatch:
    """Return the watch of a pipeline. A pipeline that does not check `should_stop` ends with its
    process when its stage is cancelled, and ignores that a machine leaves."""
    if attempt.can_stop:
        return StopWatch(lambda: worker.is_leaving() or channel.is_stopping(attempt.stage))
    return StopWatch(lambda: channel.is_stopping(attempt.stage), ends=end_process)


def report_result(worker: WorkerRank, result: StageResult) -> None:
    """Report a trial's final metrics, even if it was already finished and reported no epoch."""
    values = {metric.name: metric.value for metric in result.metrics}
    worker.report_metrics({**values, "num_samples": result.metrics[0].num_samples or 0})


def _context(
    attempt: Attempt,
    worker: WorkerRank,
    channel: EventChannel,
    scratch: Path,
    label: str,
    *,
    store: Store,
    watch: StopWatch,
    uploads: Uploads,
    logbook: Logbook | None,
) -> StageContext:
    work_dir = scratch / "work"
    work_dir.mkdir()
    cache = input_cache(os.environ)
    newest = Event("")
    most_bytes = 0

    def count_memory() -> None:
        nonlocal most_bytes
        num_bytes = _reserved_bytes(worker.device) if worker.device != "cpu" else 0
        if num_bytes > most_bytes:
            most_bytes = num_bytes
            channel.count(Amounts(attempt.stage, attempt.number, gpu_memory_bytes=num_bytes))

    def report(metrics: Mapping[str, float], checkpoint_dir: Path | None) -> None:
        if checkpoint_dir is not None:
            uploads.hand_over(checkpoint_dir, _finite(metrics.get(attempt.metric)))
        if logbook is not None:
            logbook.report(metrics)  # before Tune gets the report, which may end the trial
        count_memory()
        worker.report_metrics(
            {**metrics, **({IS_LAST: 1.0} if logbook is not None and _is_end(newest) else {})}
        )

    def emit(event: Event) -> None:
        nonlocal newest
        newest = event
        _log.info("%s", event.text)
        count_memory()
        if worker.rank == 0:
            channel.send(attempt.says(replace(event, text=label + event.text)))

    def remark(text: str) -> None:
        _log.info("%s", text)
        channel.send(attempt.says(Event(label + text), is_remark=True))

    return StageContext(
        params=attempt.params,
        inputs={
            name: fetch_artifact(
                store, art, scratch / "inputs" / name, key=attempt.origin(name), cache=cache
            )
            for name, art in attempt.inputs.items()
        },
        seed=attempt.seed,
        device=worker.device,
        rank=worker.rank,
        world_size=worker.world_size,
        work_dir=work_dir,
        resume_dir=_fetch_resume_state(store, attempt, worker, scratch / "resume", remark),
        report=report,
        save=uploads.hand_over,
        # Without its checkpoint, the training after it would be lost.
        should_stop=lambda: watch.should_stop() or (attempt.can_stop and uploads.has_failed),
        emit=emit,
    )


def _is_end(event: Event) -> bool:
    """Whether the event reports that the whole stage is done."""
    return event.done is not None and event.total is not None and event.done >= event.total


def _reserved_bytes(device: str) -> int:
    """The most memory of the GPU that this process has reserved; 0 if it has not used torch."""
    torch = sys.modules.get("torch")
    return 0 if torch is None else int(torch.cuda.max_memory_reserved(device))


def _finite(score: float | None) -> float | None:
    """Return None for NaN and infinity: JSON has no NaN, and a diverged epoch is never the best."""
    return score if score is not None and math.isfinite(score) else None


def _fetch_resume_state(
    store: Store, attempt: Attempt, worker: WorkerRank, folder: Path, remark: Callable[[str], None]
) -> Path | None:
    """Fetch the newest intact checkpoint that rank 0 finds. Returns its folder, or None if there is
    no checkpoint.

    The other ranks do not look themselves: they could find one that this attempt has written.
    """
    found = (
        fetch_newest_checkpoint(store, attempt.training, folder)
        if worker.rank == 0
        else Newest(None)
    )
    if (loss := found.remark()) is not None:
        remark(loss)
    name = worker.broadcast_from_rank_zero(found.name)
    if name is None:
        return None
    if worker.rank != 0:
        fetch_checkpoint(store, attempt.training, name, folder)
    return folder


def _call(attempt: Attempt, context: StageContext) -> StageResult:
    module, _, function = attempt.entry.partition(":")
    entry: Entry = getattr(importlib.import_module(module), function)
    try:
        return entry(context)
    except OrchestratorError as err:
        raised = as_raised(err)
        if raised is err:
            raise
        raise raised from err
    except Exception as err:
        if is_loss_of_peer(err) or is_loss_of_loader(err) or is_stuck(err) or is_full_disk(err):
            raise
        raise StageError(f"{type(err).__name__}: {err}\n{traceback.format_exc()}") from err
