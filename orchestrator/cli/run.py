"""The verb run, and the last line of a run: a short verdict that is easy to find in a log."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from typing import IO, TYPE_CHECKING

from orchestrator.cli.console import make_console, say_last
from orchestrator.cli.job import load
from orchestrator.cli.messages import Messages
from orchestrator.cli.report import show_results
from orchestrator.errors import Fault, SpecError, StoreError
from orchestrator.plan import Verdict, needed
from orchestrator.planning import plan_job
from orchestrator.report import Cell, CellVerdict
from orchestrator.schedule import HAS_NO_RESULT, State
from orchestrator.spec import Job, cells_named
from orchestrator.spec.faults import suggestion
from orchestrator.store import open_store

if TYPE_CHECKING:
    from orchestrator.run import Outcome  # it imports ray


def run(arguments: Namespace, stdout: IO[str]) -> int:
    job = load(arguments)
    only = _stages_named(job, "--only", arguments.only)
    forced = _stages_named(job, "--force", arguments.force)
    if only:
        _check_forced_run(job, only, forced)
    # Before any work, because a run must not end without the message that it should send.
    with Messages(job, arguments.job, environment=os.environ) as messages:
        verdict, exit_code = _run(arguments, job, messages, stdout, only=only, forced=forced)
    say_last(verdict)
    return exit_code


def _run(
    arguments: Namespace,
    job: Job,
    messages: Messages,
    stdout: IO[str],
    *,
    only: tuple[str, ...],
    forced: tuple[str, ...],
) -> tuple[str, int]:
    """Run the job and show its results. Returns the verdict and the exit code."""
    store = open_store(job.store)
    plan = plan_job(job, store, forced=forced, only=only)
    if any(planned.verdict is Verdict.RUN for planned in plan.stages):
        for warning in store.probe():
            print(f"warning: {warning}", file=sys.stderr)
    # Importing ray takes two seconds, torch three: do it only for a job that has no faults.
    from orchestrator.cli.progress import watching  # noqa: PLC0415
    from orchestrator.run import run_plan  # noqa: PLC0415

    with watching(plan, make_console(sys.stderr)) as watch:
        outcome = run_plan(plan, store, address=arguments.address, watch=messages.following(watch))
    for name, error in outcome.errors.items():
        print(f"stages.{name}: {error}", file=sys.stderr)
    exit_code = outcome.exit_code
    cells: tuple[Cell, ...] = ()
    try:
        cells = show_results(arguments, job, store, stdout)
        stdout.flush()
    except StoreError as err:  # the results are in the store, so still print the verdict
        print(err, file=sys.stderr)
        exit_code = exit_code or err.exit_code
    verdict = verdict_of(job.name, outcome, cells)
    messages.end(verdict, outcome, cells)
    missed = arguments.strict and any(cell.verdict is CellVerdict.FAIL for cell in cells)
    return verdict, exit_code or int(missed)


def _check_forced_run(job: Job, only: tuple[str, ...], forced: tuple[str, ...]) -> None:
    """Raise SpecError for a stage that is forced but not run."""
    not_run = sorted(set(forced) - set(needed(job, only)))
    if not_run:
        message = (
            f"{', '.join(not_run)} would not run: --only runs {', '.join(only)} and the stages "
            "that they need"
        )
        raise SpecError(
            [
                Fault(
                    "--force",
                    None,
                    None,
                    "",
                    f"{message}; add it to --only or remove it from --force",
                )
            ]
        )


def _stages_named(job: Job, option: str, names: list[str]) -> tuple[str, ...]:
    """Return the stages that an option names. The name of a matrix means all its cells."""
    faults = [
        Fault(option, None, None, "", f"unknown stage {name!r}{suggestion(name, job.stages)}")
        for name in names
        if not cells_named(name, job.stages)
    ]
    if faults:
        raise SpecError(faults)
    return tuple(stage for name in names for stage in cells_named(name, job.stages))


def verdict_of(job_name: str, outcome: Outcome, cells: tuple[Cell, ...]) -> str:
    """Return a line such as `quickstart: done: 4 stages, 1 of them reused; 3 of 4 expectations
    met`."""
    by_state = {
        state: [name for name, at in outcome.states.items() if at is state] for state in State
    }
    lost = "; ".join(
        f"{state}: {', '.join(by_state[state])}" for state in HAS_NO_RESULT if by_state[state]
    )
    if lost:
        return (
            f"{job_name}: {lost}; finished stages and checkpoints are kept, and the same command "
            "resumes"
        )
    reused = len(by_state[State.REUSED])
    return (
        f"{job_name}: done: {len(outcome.states)} stages, {reused} of them "
        f"reused{_expectations(cells)}"
    )


def _expectations(cells: tuple[Cell, ...]) -> str:
    expected = [cell for cell in cells if cell.expected is not None]
    met = sum(cell.verdict is CellVerdict.PASS for cell in expected)
    return f"; {met} of {len(expected)} expectations met" if expected else ""
