"""The command line: one file per verb. Only this package prints and exits."""

from __future__ import annotations

import errno
from argparse import Namespace
from collections.abc import Callable, Mapping
from typing import IO, NoReturn

from pydantic import JsonValue

from orchestrator.account import complete_environment
from orchestrator.cli.arguments import parse_arguments
from orchestrator.cli.artifacts import artifacts
from orchestrator.cli.cancel import cancel
from orchestrator.cli.console import end, print_json, reserved_stdout, say_last
from orchestrator.cli.dashboard import dashboard
from orchestrator.cli.doctor import doctor
from orchestrator.cli.export import export
from orchestrator.cli.job import plan, schema, validate
from orchestrator.cli.logs import logs
from orchestrator.cli.report import report
from orchestrator.cli.reproduce import reproduce
from orchestrator.cli.run import run
from orchestrator.cli.status import status
from orchestrator.errors import InterruptedRunError, MachineError, OrchestratorError, SpecError
from orchestrator.streams import Output, exit_code_of

DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
"""Errors of a disk that may hit any temporary file."""
VERBS: Mapping[str, Callable[[Namespace, Output], int]] = {
    "validate": validate,
    "plan": plan,
    "doctor": doctor,
    "run": run,
    "status": status,
    "cancel": cancel,
    "logs": logs,
    "dashboard": dashboard,
    "report": report,
    "reproduce": reproduce,
    "export": export,
    "artifacts": artifacts,
    "schema": schema,
}
"""Each verb takes the arguments and the stream for its results, and returns the exit code."""


def main(argv: list[str] | None = None) -> NoReturn:
    """Run one verb and exit with its code."""
    complete_environment()
    end(exit_code_of(lambda: _run_verb(parse_arguments(argv))))


def _run_verb(arguments: Namespace) -> int:
    with reserved_stdout() as stdout:
        json_stream = stdout if arguments.json else None
        try:
            exit_code = VERBS[arguments.verb](arguments, stdout)
            stdout.flush()
        except OrchestratorError as err:
            exit_code = _print_error(err, json_stream)
        except KeyboardInterrupt:
            exit_code = _print_error(InterruptedRunError("interrupted"), json_stream)
        except OSError as err:
            if err.errno not in DISK_ERRORS:
                raise
            exit_code = _print_error(_disk_error(err), json_stream)
    return exit_code


def _disk_error(err: OSError) -> MachineError:
    """Say which disk is meant, where no verb has a better text."""
    where = err.filename or "a disk of this machine"
    advice = "free some space, or set TMPDIR and XDG_CACHE_HOME to folders with more room"
    return MachineError(f"{where}: {err.strerror}; {advice}")


def _print_error(err: OrchestratorError, json_stream: IO[str] | None) -> int:
    if json_stream is not None:
        faults: list[JsonValue] = (
            [str(fault) for fault in err.faults] if isinstance(err, SpecError) else [str(err)]
        )
        print_json(json_stream, {"exit_code": err.exit_code, "errors": faults})
    say_last(str(err))
    return err.exit_code
