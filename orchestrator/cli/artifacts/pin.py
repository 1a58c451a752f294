"""The verb artifacts pin: keep a stage's results when the store is cleaned."""

from __future__ import annotations

import getpass
import socket
import time
from argparse import Namespace
from typing import IO

from orchestrator.artifacts.pins import Pin, load_pin, write_pin
from orchestrator.cli.artifacts.chosen import SHORT_KEY, add_stage_verb, choose, only_stage
from orchestrator.cli.console import print_json
from orchestrator.cli.options import Parsers
from orchestrator.errors import JobError
from orchestrator.report.lineage import time_text
from orchestrator.store.marks import await_unmarked
from orchestrator.store.publish import manifest_name


def add(parsers: Parsers, *, has_key: bool) -> None:
    add_stage_verb(parsers, "pin", "keep a stage's results: gc never removes them", has_key=has_key)


def run(arguments: Namespace, stdout: IO[str]) -> int:
    chosen = choose(arguments)
    manifest = chosen.manifest(only_stage(arguments, chosen))
    who = f"{getpass.getuser()}@{socket.gethostname()}"
    pin = Pin(
        key=manifest.key,
        stage=manifest.stage,
        job=chosen.job,
        pinned_by=who,
        pinned_at_s=time.time(),
    )
    is_new = write_pin(chosen.store, pin)
    # gc may be about to delete the results. What exists when it has finished stays.
    await_unmarked(chosen.store, [manifest_name(manifest.key)])
    if chosen.store.read(manifest_name(manifest.key)) is None:
        # The pin stays: to remove it could remove the pin of another command, which found results.
        raise JobError(
            f"{manifest.stage}: `artifacts gc` has just removed its results; run the job again, "
            "and then they stay"
        )
    if not is_new:
        pin = load_pin(chosen.store, manifest.key) or pin
    if arguments.json:
        print_json(stdout, {"is_new": is_new, **pin.model_dump(mode="json")})
    else:
        when = "pinned" if is_new else f"is pinned since {time_text(pin.pinned_at_s)}"
        print(f"{pin.stage} ({pin.key[:SHORT_KEY]}): {when} by {pin.pinned_by}", file=stdout)
    return 0
