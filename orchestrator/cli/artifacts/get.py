"""The verb artifacts get: download an output of a stage, and convert a checkpoint."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import IO

from orchestrator.artifact import Artifact, Manifest
from orchestrator.artifacts.fetch import fetch_output, place_files
from orchestrator.artifacts.scratch import drafts_in
from orchestrator.cli.artifacts.chosen import SHORT_KEY, Chosen, add_verb, choose, run_command
from orchestrator.cli.console import print_json
from orchestrator.cli.job import load
from orchestrator.cli.options import Parsers, output_path
from orchestrator.errors import JobError
from orchestrator.numbers import count_text
from orchestrator.report import Cell, make_cells, published_rows
from orchestrator.report.card import make_card
from orchestrator.report.lineage import make_lineage
from orchestrator.results import load_results
from orchestrator.spec.faults import suggestion
from orchestrator.store.publish import sha256_of
from pipelines import KINDS

CARD_FILE = "README.md"


def add(parsers: Parsers, *, has_key: bool) -> None:
    text = "download an output of a stage, verified by its sha256"
    verb = add_verb(parsers, "get", text, has_key=has_key, has_name=False)
    name = "OUTPUT" if has_key else "STAGE.OUTPUT"
    verb.add_argument("output", metavar=name, help="the output, such as pretrain.checkpoint")
    verb.add_argument(
        "folder", metavar="DIR", type=output_path, help="a folder; files that differ stay"
    )
    verb.add_argument(
        "--as",
        dest="target",
        choices=["timm", "mmdet", "safetensors", "onnx"],
        help="convert a checkpoint for another library and write a model card",
    )


def run(arguments: Namespace, stdout: IO[str]) -> int:
    chosen = choose(arguments)
    stage, _, name = arguments.output.rpartition(".")
    stage = stage or (next(iter(chosen.keys)) if arguments.key else "")
    if not stage:
        raise JobError(f"{arguments.output}: must be written STAGE.OUTPUT")
    manifest = chosen.manifest(stage)
    artifact = _artifact(manifest, name)
    if arguments.target is None:
        num_new = fetch_output(chosen.store, artifact, arguments.folder, key=manifest.key)
        num_files = len(artifact.files)
    else:
        num_new, num_files = _convert(arguments, chosen, manifest, artifact)
    if arguments.json:
        facts = {"key": manifest.key, "output": name, "folder": str(arguments.folder)}
        print_json(stdout, {"schema": 1, **facts, "num_files": num_files, "num_new": num_new})
    else:
        what = f"{stage}.{name} ({manifest.key[:SHORT_KEY]})"
        kept = f", {num_files - num_new} were there" if num_new < num_files else ""
        print(f"{arguments.folder}: {what}: {count_text(num_files, 'file')}{kept}", file=stdout)
    return 0


def _artifact(manifest: Manifest, name: str) -> Artifact:
    if name not in manifest.artifacts:
        known = suggestion(name, manifest.artifacts)
        raise JobError(f"{manifest.stage}: has no output {name!r}{known}")
    return manifest.artifacts[name]


def _convert(
    arguments: Namespace, chosen: Chosen, manifest: Manifest, artifact: Artifact
) -> tuple[int, int]:
    """Write the converted checkpoint and its card. Returns the numbers of new files and of all."""
    from orchestrator.cli.artifacts.conversion import convert_checkpoint  # noqa: PLC0415  torch

    with drafts_in(arguments.folder) as scratch:
        fetched, made = scratch / "fetched", scratch / "made"
        fetched.mkdir()
        made.mkdir()
        fetch_output(chosen.store, artifact, fetched, key=manifest.key)
        how_to_load = convert_checkpoint(fetched, made, target=arguments.target, kind=manifest.kind)
        files = {path.name: sha256_of(path) for path in sorted(made.iterdir())}
        card = _card(arguments, chosen, manifest, how_to_load=how_to_load, files=files)
        (made / CARD_FILE).write_text(card, encoding="utf-8")
        return place_files(arguments.folder, made), len(files) + 1


def _card(
    arguments: Namespace,
    chosen: Chosen,
    manifest: Manifest,
    *,
    how_to_load: str,
    files: Mapping[str, str],
) -> str:
    stage_of_key = {key: stage for stage, key in chosen.keys.items()}
    command = run_command(arguments, chosen)
    lineage = make_lineage(manifest, stage_of_key=stage_of_key, command=command)
    title = f"{chosen.job or manifest.provenance.get('job') or 'CAT'}: {manifest.stage}"
    return make_card(
        title=title,
        how_to_load=how_to_load,
        kind=manifest.kind,
        store=chosen.store.uri,
        lineage=lineage,
        cells=_cells(arguments, chosen, manifest),
        files=files,
    )


def _cells(arguments: Namespace, chosen: Chosen, manifest: Manifest) -> tuple[Cell, ...]:
    """The stage's numbers, next to the published ones if the job names them."""
    if arguments.job is None:
        return tuple(
            Cell(
                **metric.model_dump(exclude={"name"}),
                stage=manifest.stage,
                metric=metric.name,
                expected=None,
                verdict=None,
                key=manifest.key,
            )
            for metric in manifest.metrics
        )
    results = load_results(load(arguments), chosen.store, kinds=KINDS)
    manifests = {**results.manifests, manifest.stage: manifest}
    cells = make_cells(results.job, manifests, rows=published_rows())
    return tuple(cell for cell in cells if cell.stage == manifest.stage)
