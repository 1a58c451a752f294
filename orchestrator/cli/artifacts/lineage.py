"""The verb artifacts lineage: where a number comes from, back to code, data and first inputs."""

from __future__ import annotations

from argparse import Namespace
from typing import IO

from orchestrator.artifact import Manifest
from orchestrator.artifacts.lineage import trace, trace_lines
from orchestrator.cli.artifacts.chosen import add_verb, choose, run_command
from orchestrator.cli.console import print_json
from orchestrator.cli.options import Parsers
from orchestrator.errors import JobError
from orchestrator.spec.faults import suggestion


def add(parsers: Parsers, *, has_key: bool) -> None:
    text = "show where a number comes from: checkpoint, params, code, data and inputs"
    verb = add_verb(parsers, "lineage", text, has_key=has_key)
    if has_key:
        verb.add_argument("subject", metavar="METRIC", nargs="?", help="one of the stage's metrics")
    else:
        verb.add_argument(
            "subject", metavar="STAGE[.METRIC]", help="a stage of the job, or one of its metrics"
        )


def run(arguments: Namespace, stdout: IO[str]) -> int:
    chosen = choose(arguments)
    if arguments.key is None:
        stage, _, metric = arguments.subject.partition(".")
    else:
        stage, metric = next(iter(chosen.keys)), arguments.subject
    manifest = chosen.manifest(stage)
    if metric:
        _check_metric(manifest, metric)
    traced = trace(chosen.store, manifest, run_command=run_command(arguments, chosen))
    if arguments.json:
        print_json(stdout, {"schema": 1, "metric": metric or None, **traced.to_json()})
    else:
        print("\n".join(trace_lines(traced, metric=metric or None)), file=stdout)
    return 0


def _check_metric(manifest: Manifest, metric: str) -> None:
    names = [one.name for one in manifest.metrics]
    if metric not in names:
        what = f"{manifest.stage}: has no metric {metric!r}"
        raise JobError(f"{what}{suggestion(metric, names)}")
