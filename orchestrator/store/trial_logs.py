"""The logs of a search's trials, each next to the trial's checkpoints in the store.

    train/<key>/trials/<id>/trial-<token>.json      what the trial's own process writes
                            stopped-<token>.json    the scheduler stopped the trial

Only the owner with the token writes them. If a later owner of the search resumes the trial, it
writes another log, which counts from then on.

A search resumes from these logs only: none of Ray Tune's own state is read back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Self

from pydantic import Field, JsonValue, ValidationError

from orchestrator.artifact import Artifact, Value
from orchestrator.errors import IntegrityError
from orchestrator.store.protocol import Store
from orchestrator.store.publish import read_checked
from orchestrator.store.training import Training, token_suffix
from orchestrator.trials import Point, Trial, TrialState

_AFRESH = "restore it, or start the search from the beginning with --force STAGE"
_LOG = re.compile(r"trial(?:-([0-9]+))?\.json")


class Tries(Value):
    """The attempts of one run at a trial."""

    run_id: str
    num_begun: int = 0
    num_moves: int = 0
    """Attempts that ended because a machine left."""

    @property
    def num_lost(self) -> int:
        """The number of lost attempts. The newest has not ended, and a move is not a loss."""
        return max(0, self.num_begun - 1 - self.num_moves)

    def begin(self) -> Self:
        return self.model_copy(update={"num_begun": self.num_begun + 1})

    def move(self) -> Self:
        return self.model_copy(update={"num_moves": self.num_moves + 1})


class TrialLog(Value):
    """A sample of the space and the progress of its trial."""

    number: Annotated[int, Field(ge=1)]
    """Trials are numbered in the order in which their samples were drawn."""
    params: Mapping[str, JsonValue]
    drawn_after_s: float
    """Seconds that the search had run, over all its runs, when the sample was drawn."""
    curve: tuple[Point, ...] = ()
    elapsed_s: float = 0.0
    """Seconds that the trial has run, over all its attempts."""
    state: TrialState | None = None
    """None: the trial waits, runs, or was interrupted."""
    value: float | None = None
    """The value of a finished trial."""
    num_samples: int | None = None
    error: str | None = None
    """Why the trial failed. If `state` is None: why it was lost; another run resumes it."""
    blames_job: bool = False
    """Whether the job or its data caused the error."""
    checkpoint: Artifact | None = None
    """The model of a finished trial, published."""
    tries: Tries | None = None
    """The attempts in the newest run that began the trial."""

    @property
    def epoch(self) -> int:
        return self.curve[-1].epoch if self.curve else 0

    @property
    def last_value(self) -> float | None:
        """The final value, or the latest value of an unfinished trial."""
        return (
            self.value if self.value is not None else self.curve[-1].value if self.curve else None
        )

    def trial(self, *, gpus: float, cpus: float, error: str | None) -> Trial:
        """Return what is published about the trial when the search is over.

        `gpus` and `cpus` are the resources that it held. `error` is why it was lost, if it was.
        """
        error = self.error or (error if self.state is None else None)
        return Trial(
            number=self.number,
            id=trial_id(self.number),
            params=self.params,
            state=TrialState.FAILED if error else self.state or TrialState.STOPPED,
            curve=self.curve,
            value=self.last_value,
            num_samples=self.num_samples,
            duration_s=self.elapsed_s,
            gpu_hours=self.elapsed_s * gpus / 3600,
            core_hours=self.elapsed_s * cpus / 3600,
            error=error,
        )


def trial_id(number: int) -> str:
    return f"{number:05d}"


def trial_training(training: Training, number: int) -> Training:
    """The resume state of a trial of the search `training`."""
    return Training(f"{_trials(training)}/{trial_id(number)}", training.token)


def load_logs(store: Store, training: Training) -> tuple[TrialLog, ...]:
    """Return the logs of the search `training`, in the order of their numbers.

    Raises IntegrityError for a log that is damaged or missing, because the next sample depends on
    the number of trials.
    """
    folder = _trials(training)
    folders: dict[str, list[str]] = {}
    for name in store.names(folder):
        trial, _, file = name.removeprefix(f"{folder}/").partition("/")
        folders.setdefault(trial, []).append(file)
    last = max((int(trial) for trial in folders if trial.isdecimal()), default=0)
    trials = (trial_training(training, number) for number in range(1, last + 1))
    return tuple(
        _load(store, trial, files=folders.get(trial.folder.rpartition("/")[2], []))
        for trial in trials
    )


def load_log(store: Store, training: Training) -> TrialLog:
    """Return the log of the trial `training`, as its newest owner wrote it.

    Raises IntegrityError if it is damaged or missing.
    """
    log = _read(store, training)
    if log is not None:  # the usual case, without listing the checkpoints
        return log
    prefix = f"{training.folder}/"
    return _load(
        store, training, files=[name.removeprefix(prefix) for name in store.names(training.folder)]
    )


def save_log(store: Store, training: Training, log: TrialLog) -> None:
    """Write the log of the trial `training`."""
    store.write(_log_name(training), log.model_dump_json().encode())


def save_stop(store: Store, training: Training) -> None:
    """Record that the scheduler stopped the trial. Workers that write the log later do not change
    that."""
    store.write(_stop_name(training), b"{}")


def _trials(training: Training) -> str:
    return f"{training.folder}/trials"


def _log_name(training: Training) -> str:
    return f"{training.folder}/trial{token_suffix(training.token)}.json"


def _stop_name(training: Training) -> str:
    return f"{training.folder}/stopped{token_suffix(training.token)}.json"


def _load(store: Store, training: Training, *, files: Sequence[str]) -> TrialLog:
    """Return the log with the highest token up to the reader's own, of the trial's `files`."""
    tokens = [int(name[1] or 1) for file in files if (name := _LOG.fullmatch(file))]
    usable = [token for token in tokens if token <= training.token]
    log = _read(store, training._replace(token=max(usable))) if usable else None
    if log is None:
        raise IntegrityError(f"store {store.uri}: {_log_name(training)} is missing; {_AFRESH}")
    return log


def _read(store: Store, training: Training) -> TrialLog | None:
    """Return the log that the owner with this token wrote, or None."""
    name = _log_name(training)

    def parse(content: bytes) -> TrialLog:
        try:
            return TrialLog.model_validate_json(content)
        except ValidationError as err:
            raise IntegrityError(
                f"store {store.uri}: {name} is not the log of a trial; {_AFRESH}"
            ) from err

    log = read_checked(store, name, parse)
    if log is None:
        return None
    return log if store.read(_stop_name(training)) is None else _stopped(log)


def _stopped(log: TrialLog) -> TrialLog:
    end = {
        "state": TrialState.STOPPED,
        "value": None,
        "num_samples": None,
        "error": None,
        "checkpoint": None,
    }
    return log.model_copy(update=end)
