"""A kind for tests: a pipeline that counts epochs and logs each one. It resumes, and on request
fails or kills itself."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from orchestrator.artifact import Metric
from orchestrator.contract import (
    DataDir,
    Evaluation,
    Event,
    Kind,
    Params,
    Role,
    StageContext,
    StageResult,
)
from orchestrator.errors import DataError, StoppedError
from pipelines.data.digests import digest_of_file

TRAINING = {"loss": 0.5, "lr": 0.1, "images_per_s": 80.0, "data_wait": 3.0}


class CountParams(Params):
    data: DataDir
    """A folder with `content.txt`. The log of worked epochs is also written there. While it has a
    file `hold`, no epoch ends."""
    source: Annotated[str | None, Role.INPUT] = None
    epochs: Annotated[int, Field(ge=1)] = 3
    gain: Annotated[float, Field(gt=0)] = 1.0
    fails: Literal["no", "wrong_data", "bug", "late_bug"] = "no"
    dies_after: Annotated[int | None, Role.OUTSIDE_KEY] = None
    """The last rank kills itself with -9 after this epoch, unless the attempt was resumed."""
    num_deaths: Annotated[int, Role.OUTSIDE_KEY] = 0
    """How often rank 0 kills itself with -9 after an epoch, over all attempts."""
    hangs_after: Annotated[int | None, Role.OUTSIDE_KEY] = None
    """Rank 0 hangs after this epoch, unless the attempt was resumed."""
    is_deaf: Annotated[bool, Role.OUTSIDE_KEY] = False
    """Whether the stage ignores `should_stop`."""
    batch_size: Annotated[int, Role.OUTSIDE_KEY] = 12
    """It must be a multiple of the number of workers."""
    keep_best: Annotated[int, Role.OUTSIDE_KEY] = 0
    epoch_s: Annotated[float, Role.OUTSIDE_KEY] = 0.0
    resumed_epoch_s: Annotated[float | None, Role.OUTSIDE_KEY] = None
    """Seconds per epoch of a resumed attempt. By default, `epoch_s`."""
    loader_workers: Annotated[int, Role.OUTSIDE_KEY] = 0
    says: Annotated[str | None, Role.OUTSIDE_KEY] = None
    """What every rank prints in each epoch, with its rank and the epoch."""
    trains: Annotated[bool, Role.OUTSIDE_KEY] = False
    """Whether events have the metrics of a training, too."""


def run(context: StageContext) -> StageResult:
    params: CountParams = context.params
    start = json.loads((context.resume_dir / "state.json").read_text()) if context.resume_dir else 0
    if context.resume_dir:
        context.emit(Event(f"resuming at epoch {start}/{params.epochs}", start, params.epochs))
    if context.resume_dir and params.resumed_epoch_s is not None:
        params = params.model_copy(update={"epoch_s": params.resumed_epoch_s})
    for epoch in range(start + 1, params.epochs + 1):
        _stop_if_asked(context, epoch - 1)
        _work(context, params, epoch)
    output = context.work_dir / "count"
    output.mkdir()
    total = params.gain * params.epochs + sum(
        _total_of(folder) for folder in context.inputs.values()
    )
    (output / "count.json").write_text(json.dumps(total))
    return StageResult(
        {"count": output, "checkpoint": output},
        (Metric(name="total", value=total, num_samples=params.epochs),),
    )


def evaluate(context: StageContext) -> StageResult:
    """Return ten times the counted total, multiplied by `gain`, after `epoch_s` seconds."""
    assert set(context.inputs) == {"checkpoint"}
    context.emit(Event("counting again"))
    time.sleep(context.params.epoch_s)
    total = 10 * context.params.gain * _total_of(context.inputs["checkpoint"])
    size = Metric(name="params_m", value=1.5, unit="M", num_samples=None)
    return StageResult(
        {}, (Metric(name="total", value=total, num_samples=context.world_size), size)
    )


def _total_of(folder: Path) -> float:
    return float(json.loads((folder / "count.json").read_text()))


def _stop_if_asked(context: StageContext, epoch: int) -> None:
    """Stop if any rank is asked to. Ranks may learn of it at different times."""
    if context.params.is_deaf:
        return
    if epoch == context.params.hangs_after and context.resume_dir is None and context.rank == 0:
        time.sleep(600)
    is_asked = context.should_stop()
    if context.world_size > 1:
        is_asked = _is_any(is_asked)
    if not is_asked:
        return
    if context.rank == 0:
        context.save(_checkpoint(context, epoch, "stopped"))
    raise StoppedError(f"stopped after epoch {epoch}; its checkpoint is committed")


def _is_any(is_asked: bool) -> bool:
    import torch  # noqa: PLC0415  a single worker does not need it

    flag = torch.tensor(float(is_asked))
    torch.distributed.all_reduce(flag)
    return bool(flag)


def _work(context: StageContext, params: CountParams, epoch: int) -> None:
    if params.fails == "wrong_data":
        raise DataError(f"{params.data}/content.txt: is not to my taste")
    if params.fails == "bug":
        raise ZeroDivisionError("a bug")
    if params.says is not None:
        print(f"rank {context.rank} epoch {epoch}: {params.says}")
    if params.fails == "late_bug":
        raise ZeroDivisionError("a late bug")
    _sleep(context, params.epoch_s)
    if context.rank == 0:
        with (Path(params.data) / "worked.log").open("a") as log:
            log.write(f"gain {params.gain:g} epoch {epoch}\n")
    total = params.gain * epoch
    metrics = {"total": total, **(TRAINING if params.trains else {})}
    context.emit(Event(f"epoch {epoch}/{params.epochs}", epoch, params.epochs, metrics))
    context.report(
        {"epoch": epoch, "total": total},
        _checkpoint(context, epoch, "reported") if context.rank == 0 else None,
    )
    if (
        epoch == params.dies_after
        and context.resume_dir is None
        and context.rank == context.world_size - 1
    ):
        os.kill(os.getpid(), signal.SIGKILL)
    if context.rank == 0:
        _kill_again(Path(params.data) / "deaths.log", params.num_deaths)


def _kill_again(kills: Path, most: int) -> None:
    with kills.open("a+") as log:
        log.seek(0)
        if len(log.readlines()) >= most:
            return
        log.write("killed\n")
    os.kill(os.getpid(), signal.SIGKILL)


def _sleep(context: StageContext, duration_s: float) -> None:
    """Work for `duration_s` and as long as the epoch is held, or until the stage should stop."""
    end_s, hold = time.monotonic() + duration_s, Path(context.params.data) / "hold"
    while time.monotonic() < end_s or hold.exists():
        if context.should_stop() and not context.params.is_deaf:
            return
        time.sleep(0.05)


def _checkpoint(context: StageContext, epoch: int, name: str) -> Path:
    checkpoint = context.work_dir / f"{name}{epoch}"
    checkpoint.mkdir()
    (checkpoint / "state.json").write_text(json.dumps(epoch))
    return checkpoint


def fingerprint(params: CountParams) -> str:
    return digest_of_file(Path(params.data) / "content.txt")


COUNT = Kind(
    name="count",
    version=1,
    params=CountParams,
    inputs={"source": frozenset({"count.count", "count.checkpoint"})},
    outputs=("count", "checkpoint"),
    metrics=lambda _: ("total",),
    fingerprint=fingerprint,
    from_outside=frozenset({"source"}),
    stops=True,
    keep_best=lambda params: params.keep_best,
    fits_workers=lambda params, num_workers: params.batch_size % num_workers == 0,
    entry="tests.orchestrator.counting:run",
    evaluation=Evaluation(
        entry="tests.orchestrator.counting:evaluate",
        metrics=lambda _: ("total", "params_m"),
        fingerprint=fingerprint,
        takes_file=True,
    ),
)
KINDS = {"count": COUNT}
