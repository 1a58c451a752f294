"""The verbs and options of the command line."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from orchestrator.cli.artifacts import add_artifacts
from orchestrator.cli.options import add_job_options, output_path
from orchestrator.errors import escaped

DASHBOARD_PORT = 8500
MAX_PORT = 65535
CREDENTIALS_H = 12.0
"""How long credentials should last: a night."""


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Parse the verb and its options. Argparse exits with 2 if the command line is wrong."""
    parser = argparse.ArgumentParser(
        prog="orchestrator",
        description="Trains and evaluates CAT on a Ray cluster from one YAML job file.",
        epilog="Exit codes: 0 done, 1 a stage failed, 2 the job or its data is wrong, "
        "3 the store or cluster is unreachable, 130 interrupted.",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    _add_verb(verbs, "validate", "check a job file offline, without data, store or cluster")
    _add_verb(verbs, "plan", "show which stages would run or be reused, and why")
    text = "check this machine, a cluster, a store and a job's data before a run"
    without_job = "without it, no data are checked, and only the store that --store names"
    doctor = _add_verb(verbs, "doctor", text, without_job=without_job)
    _add_doctor(doctor)
    _add_run(_add_verb(verbs, "run", "run a job; finished stages are reused"))
    _add_cancel(_add_verb(verbs, "cancel", "cancel a job's run, or some of its stages"))
    text = "show the state of a job's last run, or a store's runs; reads only the store"
    status = _add_verb(verbs, "status", text, without_job="without it, list the runs of --store")
    _add_status(status)
    logs = _add_logs(verbs)
    _add_dashboard(verbs)
    report = _add_verb(verbs, "report", "show a job's results from its store")
    _add_report(report)
    _add_reproduce(verbs)
    _add_export(verbs)
    words = sys.argv[1:] if argv is None else argv
    add_artifacts(verbs, words)
    schema = "print the JSON Schema of job files, for editors"
    description = f"{schema[0].upper()}{schema[1:]}."
    verbs.add_parser("schema", help=schema, description=description).set_defaults(json=False)
    for word in words:
        if escaped(word) != word:
            parser.error(f"argument {escaped(word)}: not UTF-8 text; rename the file or folder")
    arguments = parser.parse_args(words)
    if arguments.verb == "status" and (fault := _fault_of_status(arguments)):
        status.error(fault)
    if arguments.verb == "doctor" and arguments.job is None and arguments.overrides:
        doctor.error("argument --set: needs JOB")
    if arguments.verb == "logs" and (fault := _fault_of_logs(arguments)):
        logs.error(fault)
    if arguments.verb == "report" and arguments.json and arguments.format not in (None, "json"):
        report.error(f"argument --json: not allowed with argument --format {arguments.format}")
    if arguments.verb == "report" and arguments.others and not _suits_comparison(arguments):
        report.error(
            "several jobs: only --format terminal and json compare them; leave out --plots and "
            "--verify"
        )
    return arguments


def _fault_of_status(arguments: argparse.Namespace) -> str | None:
    if arguments.job is not None:
        return "argument --all: not allowed with JOB" if arguments.all else None
    if arguments.store is None:
        return "JOB is required, or --store URI to list the runs of a store"
    needing_job = {"--watch": arguments.watch, "--set": arguments.overrides}
    given = [option for option, value in needing_job.items() if value]
    return f"argument {given[0]}: needs JOB" if given else None


def _fault_of_logs(arguments: argparse.Namespace) -> str | None:
    if arguments.stage is not None:
        return "argument --driver: not allowed with STAGE" if arguments.driver else None
    needing_stage = {
        "--attempt": arguments.attempt,
        "--rank": arguments.rank,
        "--trial": arguments.trial,
    }
    given = [option for option, value in needing_stage.items() if value is not None]
    return f"argument {given[0]}: needs STAGE" if given else None


def _suits_comparison(arguments: argparse.Namespace) -> bool:
    is_shown = arguments.format in (None, "terminal", "json")
    return is_shown and arguments.plots is None and not arguments.verify


def _add_verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    text: str,
    *,
    without_job: str | None = None,
) -> argparse.ArgumentParser:
    """`without_job` says what the verb does without JOB. None: it needs a job."""
    verb = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    nargs = None if without_job is None else "?"
    more = "" if without_job is None else f"; {without_job}"
    verb.add_argument("job", metavar="JOB", type=Path, nargs=nargs, help=f"a YAML job file{more}")
    add_job_options(verb)
    verb.add_argument("--json", action="store_true", help="print only JSON on stdout")
    return verb


def _add_run(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--only",
        metavar="STAGE",
        action="append",
        default=[],
        help="run this stage and the stages that it needs; may be repeated",
    )
    verb.add_argument(
        "--force",
        metavar="STAGE",
        action="append",
        default=[],
        help="run this stage again under a new Key; may be repeated",
    )
    _add_address(verb, without="one on this machine")
    verb.add_argument(
        "--strict", action="store_true", help="exit with 1 if an expectation is missed"
    )
    verb.add_argument(
        "--no-wait",
        action="store_true",
        help="fail with exit code 3 if another run works on a stage, instead of waiting for it",
    )


def _add_address(verb: argparse.ArgumentParser, *, without: str) -> None:
    verb.add_argument(
        "--address",
        metavar="ADDR",
        help=f"the Ray cluster (default: RAY_ADDRESS, else {without})",
    )


def _add_doctor(verb: argparse.ArgumentParser) -> None:
    _add_address(verb, without="only this machine is checked")
    verb.add_argument(
        "--hours",
        metavar="H",
        type=float,
        default=CREDENTIALS_H,
        help="warn of credentials that expire within H hours (default: %(default)g)",
    )


def _add_status(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--watch",
        action="store_true",
        help="update it every few seconds until the run ends; wait for the job's first run",
    )
    verb.add_argument(
        "--all", action="store_true", help="without JOB: list all runs, not only the newest 50"
    )


def _add_cancel(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "stages", metavar="STAGE", nargs="*", help="only these stages; default: the whole run"
    )
    verb.add_argument("--run", metavar="RUN", help="default: the job's last run")


def _add_logs(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser],
) -> argparse.ArgumentParser:
    text = "print what a stage's worker printed, or the driver; reads only the store"
    verb = verbs.add_parser("logs", help=text, description=f"{text[0].upper()}{text[1:]}.")
    verb.set_defaults(json=False)
    verb.add_argument("job", metavar="JOB", type=Path, help="a YAML job file")
    verb.add_argument(
        "stage", metavar="STAGE", nargs="?", help="a stage of the run (default: the driver's log)"
    )
    add_job_options(verb)
    verb.add_argument("--attempt", metavar="N", type=int, help="default: the newest")
    verb.add_argument("--rank", metavar="K", type=int, help="default: the lowest, which is 0")
    verb.add_argument(
        "--trial", metavar="T", type=int, help="the number of a search's trial; default: the last"
    )
    verb.add_argument("--run", metavar="RUN", help="default: the job's last run")
    verb.add_argument(
        "--driver", action="store_true", help="the log of the process `run` instead of a worker's"
    )
    verb.add_argument(
        "--follow", action="store_true", help="print new text until the stage or the run ends"
    )
    return verb


def _add_dashboard(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "show a job in a browser while it runs; reads only the store"
    verb = verbs.add_parser(
        "dashboard", help=text, description=f"{text[0].upper()}{text[1:]}. Ctrl-C ends it."
    )
    verb.set_defaults(json=False)
    verb.add_argument("job", metavar="JOB", type=Path, help="a YAML job file")
    add_job_options(verb)
    verb.add_argument(
        "--port",
        metavar="N",
        type=_port,
        default=DASHBOARD_PORT,
        help="default: %(default)s; 0 chooses a free port",
    )
    verb.add_argument(
        "--host",
        metavar="ADDR",
        default="127.0.0.1",
        help="the address to listen on (default: %(default)s, only this machine); another one "
        "needs a token in ORCHESTRATOR_TOKEN or --token-file",
    )
    verb.add_argument(
        "--token-file",
        metavar="FILE",
        type=output_path,
        help="a file with the token that a browser must send",
    )


def _port(text: str) -> int:
    port = int(text) if text.isdecimal() else -1
    if not 0 <= port <= MAX_PORT:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port; give 0 to {MAX_PORT}")
    return port


def _add_report(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "others", metavar="OTHER", nargs="*", type=Path, help="jobs to compare with JOB"
    )
    verb.add_argument(
        "--format",
        choices=["terminal", "html", "json", "markdown", "latex", "csv"],
        help="default: terminal, or json with --json",
    )
    verb.add_argument(
        "--output", metavar="FILE", type=output_path, help="write to FILE instead of stdout"
    )
    verb.add_argument(
        "--plots",
        metavar="FOLDER",
        type=output_path,
        help="write plots of searches and details of evaluations to FOLDER; Markdown shows them",
    )
    verb.add_argument(
        "--verify",
        action="store_true",
        help="read all bytes that the numbers come from; exit with 3 if some have changed",
    )


def _add_reproduce(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "show which of the paper's numbers a store reproduces, and what runs the rest"
    verb = verbs.add_parser("reproduce", help=text, description=f"{text[0].upper()}{text[1:]}.")
    verb.add_argument("--store", metavar="URI", required=True, help="the store to read")
    verb.add_argument(
        "--rows",
        metavar="ROW",
        action="append",
        default=[],
        help="only these rows, such as coco, imagenet1k/cat_small or coco/fcos/*; may be repeated",
    )
    verb.add_argument("--json", action="store_true", help="print only JSON on stdout")


def _add_export(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "write a job's curves and numbers for TensorBoard or MLflow; reads only the store"
    verb = verbs.add_parser("export", help=text, description=f"{text[0].upper()}{text[1:]}.")
    verb.set_defaults(json=False)
    verb.add_argument("target", choices=["tensorboard", "mlflow"], help="the format")
    verb.add_argument("job", metavar="JOB", type=Path, help="a YAML job file")
    verb.add_argument(
        "destination",
        metavar="DESTINATION",
        help="a folder for event files, or the URI of an MLflow tracking server",
    )
    add_job_options(verb)
    verb.add_argument(
        "--follow", action="store_true", help="tensorboard: write new points until the run ends"
    )
