"""The kind `tune`: a hyperparameter search on Ray Tune, over the params of another stage."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from ray import tune

from orchestrator.artifact import Artifact, Metric
from orchestrator.cluster.attempt import Attempt
from orchestrator.cluster.events import EventChannel
from orchestrator.cluster.schedulers import make_scheduler
from orchestrator.cluster.suggest import NUMBER, Suggestions
from orchestrator.cluster.trial import MAX_TRIES, make_trainable
from orchestrator.contract import Event, StageResult
from orchestrator.errors import JobError, StageError, StoppedError
from orchestrator.numbers import count_text
from orchestrator.redaction import redactor
from orchestrator.spec import BEST_CHECKPOINT, TuneParams
from orchestrator.store import open_store
from orchestrator.store.trial_logs import TrialLog, load_logs
from orchestrator.trials import TRIALS_FILE, Trial, Trials, TrialState

# A search reports only through events. Tune's new output prints even at verbose=0, and its logger
# prints each trial's traceback.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
# A finished trial reports its end without an epoch's metrics, and its log is kept in the store.
os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
logging.getLogger("optuna").setLevel(logging.WARNING)


def search(
    attempt: Attempt,
    params: TuneParams,
    metric: str,
    *,
    slots: int,
    channel: EventChannel,
    scratch: Path,
) -> tuple[StageResult, Mapping[str, Artifact]]:
    """Search `params.space` with `slots` trials at a time, resuming from earlier runs.

    Returns the result, and the best trial's model if that trial finished. Raises StageError if no
    trial succeeds, JobError if all trials fail because of the job or its data, StoppedError if it
    is cancelled.
    """
    store = open_store(attempt.store_uri)
    logs = load_logs(store, attempt.training)
    event = _beginning(logs, params, metric, slots=slots)
    channel.send(attempt.says(event, workers=slots * attempt.workers))
    errors = _run(
        attempt, params, metric, logs, slots=slots, channel=channel, storage=scratch / "ray"
    )
    logs = load_logs(store, attempt.training)
    if channel.is_stopping(attempt.stage) and _num_ended(logs) < params.size:
        raise StoppedError(
            f"stopped with {_num_ended(logs)} of {count_text(params.size, 'trial')} finished; "
            "another run resumes the others"
        )
    trials = Trials(metric=metric, mode=params.mode, trials=_trials(attempt, logs, errors))
    best = trials.best()
    if best is None or best.value is None:
        raise _failure(attempt.stage, trials, logs)
    log = next(log for log in logs if log.number == best.number)
    outputs = {
        "best_params": _write(scratch / "best_params", "best_params.json", dict(best.params)),
        "trials": _write_trials(scratch, trials),
    }
    result = StageResult(
        outputs, (Metric(name=metric, value=best.value, num_samples=best.num_samples),)
    )
    return result, {BEST_CHECKPOINT: log.checkpoint} if log.checkpoint else {}


def _beginning(logs: Sequence[TrialLog], params: TuneParams, metric: str, *, slots: int) -> Event:
    """The search's progress before this run, with the best value of earlier runs."""
    if not logs:
        return Event(
            f"{count_text(params.size, 'trial')}, {slots} at a time", done=0, total=params.size
        )
    ended = _num_ended(logs)
    values = [log.last_value for log in logs if log.last_value is not None]
    best = {metric: max(values) if params.mode == "max" else min(values)} if values else {}
    text = f"{ended} of {count_text(params.size, 'trial')} finished, {slots} at a time"
    return Event(text, done=ended, total=params.size, metrics=best)


def _run(
    attempt: Attempt,
    params: TuneParams,
    metric: str,
    logs: Sequence[TrialLog],
    *,
    slots: int,
    channel: EventChannel,
    storage: Path,
) -> dict[int, str]:
    """Run the remaining trials. Returns why trials were lost, by number. Raises StoreError.

    Ray Tune writes its own records to `storage`, a local folder. Nothing reads them.
    """
    store = open_store(attempt.store_uri)
    num_left = params.size - _num_ended(logs)
    if num_left <= 0:
        return {}
    suggestions = Suggestions(
        params,
        seed=attempt.seed,
        metric=metric,
        store=store,
        training=attempt.training,
        is_stopping=lambda: channel.is_stopping(attempt.stage),
    )
    suggestions.learn(logs)
    waiting = _WaitingTrials(lambda: channel.is_stopping(attempt.stage))
    tuner = tune.Tuner(
        make_trainable(attempt, channel),
        tune_config=tune.TuneConfig(
            num_samples=num_left,
            max_concurrent_trials=slots,
            search_alg=suggestions,
            scheduler=make_scheduler(params, metric, logs),
        ),
        run_config=tune.RunConfig(
            name=attempt.ray_name,
            storage_path=str(storage),
            verbose=0,
            stop=waiting,
            callbacks=[waiting],
            failure_config=tune.FailureConfig(max_failures=MAX_TRIES),
        ),
    )
    results = tuner.fit()
    if suggestions.failure is not None:
        raise suggestions.failure
    return {
        result.config[NUMBER]: _first_line(result.error)
        for result in results
        if result.error is not None and result.config is not None
    }


def _num_ended(logs: Sequence[TrialLog]) -> int:
    return sum(log.state is not None for log in logs)


class _WaitingTrials(tune.Callback, tune.Stopper):  # type: ignore[misc]  # Ray's have no types
    """Ends a search that is asked to stop once only trials are left that wait for resources.

    Running trials end by themselves, after a checkpoint. Tune would wait for the others without a
    limit.
    """

    def __init__(self, is_stopping: Callable[[], bool]) -> None:
        self._is_stopping = is_stopping
        self._is_any_running = False

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._is_any_running = any(trial.status == "RUNNING" for trial in trials)

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return not self._is_any_running and self._is_stopping()

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing. Tune pickles it for its own way of resuming, which is not used."""
        return {}


def _first_line(error: Exception) -> str:
    cause = getattr(error, "cause", None) or error
    return (str(cause).strip() or type(cause).__name__).splitlines()[0]


def _trials(
    attempt: Attempt, logs: Sequence[TrialLog], errors: Mapping[int, str]
) -> tuple[Trial, ...]:
    gpus = attempt.workers * attempt.resources.gpus_per_worker
    cpus = attempt.workers * attempt.resources.cpus_per_worker
    # The text of a log is clean. An error from Tune is published here for the first time.
    clean = redactor(os.environ, attempt.logs.secret_names).redacted_text
    lost = {number: clean(error) for number, error in errors.items()}
    return tuple(log.trial(gpus=gpus, cpus=cpus, error=lost.get(log.number)) for log in logs)


def _failure(stage: str, trials: Trials, logs: Sequence[TrialLog]) -> StageError | JobError:
    failed = [trial for trial in trials.trials if trial.state is TrialState.FAILED]
    first = (
        f"{len(failed)} failed, the first with: {failed[0].error}" if failed else "none reported it"
    )
    # A lost trial has no end in its log, so another run resumes it; a failed trial would fail
    # again.
    is_lost = any(log.state is None for log in logs)
    forced = f"fix the job, or repeat the same trials with --force {stage}"
    again = "run again to resume the lost trials" if is_lost else forced
    message = f"no trial has a value of {trials.metric}: {first}; {again}"
    is_jobs_fault = bool(logs) and all(log.blames_job for log in logs)
    return JobError(message) if is_jobs_fault else StageError(message)


def _write_trials(scratch: Path, trials: Trials) -> Path:
    """Write the trials as JSON and as Parquet, one row per trial with params and curve as JSON
    strings."""
    content = trials.model_dump(mode="json")
    folder = _write(scratch / "trials", TRIALS_FILE, content)
    rows = [
        {
            name: json.dumps(value) if name in ("params", "curve") else value
            for name, value in trial.items()
        }
        for trial in content["trials"]
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "trials.parquet")
    return folder


def _write(folder: Path, name: str, content: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / name).write_text(json.dumps(content, indent=2, sort_keys=True, allow_nan=False))
    return folder
