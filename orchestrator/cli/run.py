"""The verb run, and the last line of a run: a short verdict that is easy to find in a log."""

from __future__ import annotations

import json
import os
import sys
import time
from argparse import Namespace
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING

from orchestrator.cli.console import make_console, say_last
from orchestrator.cli.driver_log import DriverLog, driver_log
from orchestrator.cli.failed_stage import describe_failure
from orchestrator.cli.job import load
from orchestrator.cli.messages import Messages, secret_names
from orchestrator.cli.report import show_results
from orchestrator.cluster.examination import quick_checks
from orchestrator.doctor.check import Check, to_document
from orchestrator.doctor.check import Verdict as CheckVerdict
from orchestrator.errors import Fault, SpecError, StoreError
from orchestrator.numbers import count_text
from orchestrator.plan import Plan, Verdict, needed
from orchestrator.planning import plan_job
from orchestrator.process import number_in
from orchestrator.report import Cell, CellVerdict
from orchestrator.runs.cancel import POLL_S, POLL_VARIABLE
from orchestrator.runs.others import refuse_second_run, warn_of_other_user
from orchestrator.schedule import HAS_NO_RESULT, State
from orchestrator.spec import Job, cells_named
from orchestrator.spec.faults import suggestion
from orchestrator.store import Store, open_store
from orchestrator.store.lease import LEASE_S, LEASE_VARIABLE
from orchestrator.store.stage_logs import LogSettings, log_settings

CHECKS_FILE = "doctor.json"
"""What was checked before the run, next to its record."""

if TYPE_CHECKING:
    from orchestrator.progress import Update  # they import ray
    from orchestrator.run import Outcome


def run(arguments: Namespace, stdout: IO[str]) -> int:
    job = load(arguments)
    only = _stages_named(job, "--only", arguments.only)
    forced = _stages_named(job, "--force", arguments.force)
    if only:
        _check_forced_run(job, only, forced)
    logs = replace(log_settings(os.environ), secret_names=secret_names(job))
    cancel_poll_s = number_in(os.environ, POLL_VARIABLE, "seconds", POLL_S)
    lease_s = number_in(os.environ, LEASE_VARIABLE, "seconds", LEASE_S)
    # Before any work, because a run must not end without the message that it should send.
    with Messages(job, arguments.job, environment=os.environ) as messages:
        store = open_store(job.store)
        plan = plan_job(job, store, forced=forced, only=only)
        running = _Run(arguments, plan, store, messages, logs, cancel_poll_s, lease_s)
        verdict, exit_code = running.execute(stdout)
    say_last(verdict)
    return exit_code


@dataclass(frozen=True)
class _Run:
    """A run and its outputs: the terminal, the driver's log, and the chat."""

    arguments: Namespace
    plan: Plan
    store: Store
    messages: Messages
    logs: LogSettings
    cancel_poll_s: float
    lease_s: float

    def execute(self, stdout: IO[str]) -> tuple[str, int]:
        """Run the plan and show its results. Returns the verdict and the exit code."""
        warnings, checks = self._warn()
        # Importing ray takes two seconds, torch three: do it only for a job that has no faults.
        from orchestrator.run import new_run_id  # noqa: PLC0415

        run_id = new_run_id()
        with driver_log(self.store, run_id, self.logs) as log:
            for warning in warnings:
                log.add(warning)
            self.messages.warn_also(log.add)
            outcome = self._run(run_id, log, checks)
            verdict, exit_code = self._show(run_id, outcome, stdout, log)
            log.add(verdict)
        return verdict, exit_code

    def _warn(self) -> tuple[tuple[str, ...], tuple[Check, ...]]:
        """Print what is wrong with this machine, and the limits of the store, unless there is
        nothing to run. Returns the warnings and the checks of the machine.

        Raises StageHeldError if another run of the job uses a store that is for one run at a time.
        """
        if all(planned.verdict is Verdict.REUSE for planned in self.plan.stages):
            return (), ()
        limits = self.store.probe()
        if limits.is_for_one_run:
            refuse_second_run(self.store, self.plan.job.name, now_s=time.time())
        checks = quick_checks(limits)
        of_store = (*limits.warnings, *warn_of_other_user(self.store, self.plan.job.name))
        warnings = (
            *(f"warning: {warning}" for warning in of_store),
            *(f"doctor: {check}" for check in checks if check.verdict is not CheckVerdict.OK),
        )
        for warning in warnings:
            print(warning, file=sys.stderr)
        return warnings, checks

    def _run(self, run_id: str, log: DriverLog, checks: tuple[Check, ...]) -> Outcome:
        from orchestrator.cli.progress import line_of, watching  # noqa: PLC0415  ray
        from orchestrator.run import run_plan  # noqa: PLC0415

        document = json.dumps(to_document(checks), indent=2)
        with watching(self.plan, make_console(sys.stderr)) as show:

            def watch(update: Update) -> None:
                show(update)
                log.add(line_of(update))

            return run_plan(
                self.plan,
                self.store,
                address=self.arguments.address,
                watch=self.messages.following(watch),
                run_id=run_id,
                logs=self.logs,
                cancel_poll_s=self.cancel_poll_s,
                lease_s=self.lease_s,
                waits=not self.arguments.no_wait,
                kept={CHECKS_FILE: document.encode()} if checks else {},
            )

    def _show(
        self, run_id: str, outcome: Outcome, stdout: IO[str], log: DriverLog
    ) -> tuple[str, int]:
        """Print the errors and the results. Returns the verdict and the exit code."""
        arguments, job = self.arguments, self.plan.job
        for name, error in outcome.errors.items():
            _print(describe_failure(arguments, self.store, run_id, name, error), log)
        exit_code = outcome.exit_code
        cells: tuple[Cell, ...] = ()
        try:
            cells = show_results(arguments, job, self.store, stdout)
            stdout.flush()
        except StoreError as err:  # the results are in the store, so still print the verdict
            _print(str(err), log)
            exit_code = exit_code or err.exit_code
        verdict = verdict_of(job.name, outcome, cells)
        self.messages.end(verdict, outcome, cells)
        missed = arguments.strict and any(cell.verdict is CellVerdict.FAIL for cell in cells)
        return verdict, exit_code or int(missed)


def _print(text: str, log: DriverLog) -> None:
    print(text, file=sys.stderr)
    log.add(text)


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
        f"{job_name}: done: {count_text(len(outcome.states), 'stage')}, {reused} of them "
        f"reused{_expectations(cells)}"
    )


def _expectations(cells: tuple[Cell, ...]) -> str:
    expected = [cell for cell in cells if cell.expected is not None]
    met = sum(cell.verdict is CellVerdict.PASS for cell in expected)
    return f"; {met} of {len(expected)} expectations met" if expected else ""
