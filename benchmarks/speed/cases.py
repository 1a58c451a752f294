"""Runs one case: all networks, in each way of running them, in the same rounds.

An entry that cannot run is returned as skipped; it does not raise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from benchmarks.speed.networks import Batch, Entry, Network, make_batch, make_entry
from benchmarks.speed.results import Result, compare, count
from benchmarks.speed.roofs import Roofs
from benchmarks.speed.rounds import alternate, warm_up
from benchmarks.speed.settings import Case, Run, Settings


@dataclass(frozen=True)
class Skipped:
    """An entry that did not run, and why."""

    model: str
    run: Run
    case: Case
    reason: str

    def to_dict(self) -> dict[str, Any]:
        return {"model": self.model, "run": self.run, **asdict(self.case), "reason": self.reason}


@dataclass(frozen=True)
class Started:
    """An entry after its warm-up, and how many of its steps fill its part of a round."""

    entry: Entry
    num_steps: int


def run_case(
    case: Case,
    networks: Sequence[Network],
    settings: Settings,
    *,
    roofs: Roofs,
    device: torch.device,
) -> tuple[list[Result], list[Skipped]]:
    """Measure a case. Ratios are relative to the first rival in `settings`."""
    # The modes and batch sizes of earlier cases count towards its limit of recompilations.
    torch.compiler.reset()
    started, skipped = _start_all(case, networks, settings, device)
    taken = alternate(
        [one.entry for one in started],
        num_steps=[one.num_steps for one in started],
        rounds=settings.rounds,
        synchronize=synchronizer(device),
    )
    step_s = {
        (one.entry.network.name, one.entry.run): times
        for one, times in zip(started, taken, strict=True)
    }
    rival = settings.rivals[0] if settings.rivals else None
    results = [
        Result(
            model=name,
            run=run,
            case=case,
            step_s=tuple(times),
            counts=count(one.entry, device),
            roofs=roofs,
            ratio_to_rival=compare(times, None if rival is None else step_s.get((rival, run))),
            ratio_to_eager=compare(times, None if run == "eager" else step_s.get((name, "eager"))),
        )
        for one, ((name, run), times) in zip(started, step_s.items(), strict=True)
    ]
    return results, skipped


def synchronizer(device: torch.device) -> Callable[[], None]:
    """A function that waits for all work queued on the device."""
    return (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else (lambda: None)


def _start_all(
    case: Case, networks: Sequence[Network], settings: Settings, device: torch.device
) -> tuple[list[Started], list[Skipped]]:
    wanted = [(network, run) for run in settings.runs_of(case.mode) for network in networks]
    try:
        batch = make_batch(case.batch_size, img_size=settings.img_size, device=device)
    except RuntimeError as err:
        reason = _reason(err, "eager")
        return [], [Skipped(network.name, run, case, reason) for network, run in wanted]
    outcomes = [_start(network, run, case, batch, device) for network, run in wanted]
    started = [outcome for outcome in outcomes if isinstance(outcome, Started)]
    return started, [outcome for outcome in outcomes if isinstance(outcome, Skipped)]


def _start(
    network: Network, run: Run, case: Case, batch: Batch, device: torch.device
) -> Started | Skipped:
    entry = make_entry(network, run, case, batch)
    try:
        return Started(entry, warm_up(entry, synchronizer(device)))
    except RuntimeError as err:
        reason = _reason(err, run)
    # This is outside `except`, because the error's traceback holds the activations.
    network.optimizer.zero_grad()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return Skipped(network.name, run, case, reason)


def _reason(err: RuntimeError, run: Run) -> str:
    """Why an entry cannot run, in one line.

    Raises `err` again if it is neither lack of memory nor a failed compilation.
    """
    text = str(err).strip().partition("\n")[0]
    if isinstance(err, torch.OutOfMemoryError) or "can't allocate memory" in text:
        return "out of memory"
    if run in ("compiled", "graphs"):
        return f"cannot be compiled here: {text}"
    raise err
