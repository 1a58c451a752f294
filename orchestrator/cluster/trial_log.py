"""Write a trial's log from inside the trial: its reports, and how it ended."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Collection, Mapping

from orchestrator.contract import CHECKPOINT, StageResult
from orchestrator.errors import JobError, OrchestratorError, StageError
from orchestrator.redaction import redactor
from orchestrator.store import Store
from orchestrator.store.publish import publish_artifact
from orchestrator.store.training import Training
from orchestrator.store.trial_logs import TrialLog, load_log, save_log
from orchestrator.trials import Point, TrialState

IS_LAST = "is_last"
"""The key of a value in a trial's last report to Tune. After it, stopping the trial would save
nothing."""


class Logbook:
    """The log of the trial `training`. Its time counts from construction."""

    def __init__(
        self,
        store: Store,
        training: Training,
        metric: str,
        *,
        uploads_always: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._training = training
        self._metric = metric
        self._uploads_always = uploads_always
        self._clock = clock
        """In seconds."""
        self.log: TrialLog = load_log(store, training)
        self._began_s = clock() - self.log.elapsed_s

    def report(self, metrics: Mapping[str, float]) -> None:
        """Record an epoch's metrics.

        Entries of earlier attempts for this or later epochs are removed: their training was not
        committed.
        """
        elapsed_s = self._elapsed_s()
        epoch, value = int(metrics["epoch"]), metrics.get(self._metric)
        if value is None:
            return
        before = tuple(point for point in self.log.curve if point.epoch < epoch)
        finite = value if math.isfinite(value) else None
        self._save(
            elapsed_s, curve=(*before, Point(epoch=epoch, value=finite, elapsed_s=elapsed_s))
        )

    def finish(self, result: StageResult) -> None:
        """Record the end of the training and publish the model, which may turn out to be the
        best."""
        values = {metric.name: metric for metric in result.metrics}
        if self._metric not in values:
            raise StageError(
                f"the pipeline ended without a value of {self._metric}, which the search optimises"
            )
        model = result.outputs.get(CHECKPOINT)
        self._save(
            self._elapsed_s(),
            state=TrialState.FINISHED,
            value=values[self._metric].value,
            num_samples=values[self._metric].num_samples,
            checkpoint=publish_artifact(self._store, model, always=self._uploads_always)
            if model
            else None,
        )

    def fail(
        self,
        error: OrchestratorError,
        *,
        elapsed_s: float,
        secret_names: Collection[str] = (),
    ) -> None:
        """Record an error that another attempt would get again. `elapsed_s` is the time of all
        attempts together. `secret_names` are environment variables with secrets."""
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        self._save(
            elapsed_s,
            state=TrialState.FAILED,
            error=redactor(os.environ, secret_names).redacted_text(first_line),
            blames_job=isinstance(error, JobError),
        )

    def _elapsed_s(self) -> float:
        return self._clock() - self._began_s

    def _save(self, elapsed_s: float, **changes: object) -> None:
        self.log = self.log.model_copy(update={"elapsed_s": elapsed_s, **changes})
        save_log(self._store, self._training, self.log)
