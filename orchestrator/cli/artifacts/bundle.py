"""The verb artifacts bundle: the evidence of a job in one file. `verify` checks it."""

from __future__ import annotations

import io
from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from pathlib import Path
from typing import IO

from orchestrator.cli.artifacts.chosen import SHORT_KEY
from orchestrator.cli.console import print_json
from orchestrator.cli.job import load
from orchestrator.cli.options import Parsers, add_job_options
from orchestrator.errors import Fault, IntegrityError, SpecError
from orchestrator.numbers import count_text, size_text
from orchestrator.spec import Job
from orchestrator.store import Store, open_store

SUFFIX = ".tar"


def add(parsers: Parsers, *, has_key: bool) -> None:
    text = "write the evidence of a job's numbers into one file"
    verb = parsers.add_parser("bundle", help=text, description=f"{text[0].upper()}{text[1:]}.")
    verb.add_argument("job", metavar="JOB", type=Path, help="a YAML job file")
    verb.add_argument("file", metavar="FILE.tar", type=Path, help="the file to write")
    add_job_options(verb)
    verb.add_argument("--weights", action="store_true", help="with the checkpoints")
    verb.add_argument(
        "--sign", metavar="KEY", type=Path, help="sign it with the ed25519 private key in this file"
    )
    verb.add_argument("--json", action="store_true", help="print only JSON on stdout")


def run(arguments: Namespace, stdout: IO[str]) -> int:
    from orchestrator.artifacts.bundle import (  # noqa: PLC0415  cryptography takes 0.1 s
        load_private_key,
        write_bundle,
    )

    if arguments.file.suffix != SUFFIX:
        what = f"{arguments.file}: must end in {SUFFIX}, by which verify recognizes a bundle"
        raise SpecError([Fault("FILE", None, None, "", what)])
    key = None if arguments.sign is None else load_private_key(arguments.sign)
    job = load(arguments)
    store = open_store(job.store)
    bundled = write_bundle(
        store,
        job.name,
        arguments.file,
        reports=_reports(arguments, job, store),
        has_weights=arguments.weights,
        key=key,
    )
    if arguments.json:
        print_json(stdout, {"schema": 1, "file": str(arguments.file), **asdict(bundled)})
        return 0
    signed = "not signed" if bundled.signer is None else f"signed by {bundled.signer}"
    what = f"{count_text(bundled.num_files, 'file')}, {size_text(bundled.size)}, {signed}"
    print(f"{arguments.file}: {what}; digests.json: {bundled.digests_sha256}", file=stdout)
    return 0


def _reports(arguments: Namespace, job: Job, store: Store) -> dict[str, bytes]:
    from orchestrator.cli.report import show_results  # noqa: PLC0415  reports take half a second

    reports = {}
    for format_name in ("html", "json"):
        text = io.StringIO(newline="")
        options = Namespace(**{**vars(arguments), "json": False, "format": format_name})
        show_results(options, job, store, text)
        reports[f"report.{format_name}"] = text.getvalue().encode()
    return reports


def add_bundle_options(verb: ArgumentParser) -> None:
    """Add the options of `verify` for a bundle."""
    verb.add_argument(
        "--public-key",
        metavar="FILE",
        type=Path,
        help="for FILE.tar from `bundle`: the key that must have signed it",
    )


def is_bundle(arguments: Namespace) -> bool:
    """Whether `verify` is about a bundle. Raises SpecError for options that do not fit."""
    is_tar: bool = arguments.job is not None and arguments.job.suffix == SUFFIX
    if not is_tar and arguments.public_key is not None:
        raise SpecError([Fault("--public-key", None, None, "", "needs FILE.tar instead of JOB")])
    return is_tar


def verify_bundle(arguments: Namespace, stdout: IO[str]) -> int:
    """Check FILE.tar. Returns 3 if it has a fault."""
    from orchestrator.artifacts.evidence import (  # noqa: PLC0415  cryptography takes 0.1 s
        check_bundle,
        load_public_key,
    )

    trusted = None if arguments.public_key is None else load_public_key(arguments.public_key)
    checked = check_bundle(arguments.job, trusted=trusted)
    if arguments.json:
        print_json(stdout, {"schema": 1, "file": str(arguments.job), **asdict(checked)})
    else:
        for fault in checked.faults:
            print(f"  {fault}", file=stdout)
        faults = count_text(len(checked.faults), "fault")
        what = f"{count_text(checked.num_files, 'file')}, {size_text(checked.size)}: {faults}"
        signed = _signed(checked.signer, is_trusted=checked.is_trusted)
        print(f"{arguments.job}: {checked.job}: {what}; {signed}", file=stdout)
        print(f"digests.json: {checked.digests_sha256}", file=stdout)
    return IntegrityError.exit_code if checked.faults else 0


def _signed(signer: str | None, *, is_trusted: bool) -> str:
    if signer is None:
        return "not signed, so compare the digest below with its author's"
    if is_trusted:
        return f"signed by {signer[:SHORT_KEY]}, the given key"
    return f"signed by {signer}; only --public-key shows whose key that is"
