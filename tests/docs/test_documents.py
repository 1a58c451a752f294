"""The documents match the code: commands, kinds, metrics, exit codes and links."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from orchestrator.cli import VERBS
from orchestrator.cli.arguments import parse_arguments
from orchestrator.cli.artifacts import VERBS as ARTIFACT_VERBS
from orchestrator.contract import Kind
from orchestrator.errors import OrchestratorError
from orchestrator.spec import EvaluateParams, load_job
from pipelines import KINDS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
DOWNSTREAM = (ROOT / "docs" / "downstream.md").read_text()
REFERENCE = ROOT / "docs" / "reference"
COMMAND_LINE = (REFERENCE / "command-line.md").read_text()
KINDS_PAGE = (REFERENCE / "kinds.md").read_text()


def section(page: str, title: str) -> str:
    """The text below a heading of the second level."""
    return page.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize("verb", [*VERBS, *(f"artifacts {verb}" for verb in ARTIFACT_VERBS)])
def test_every_verb_and_option_is_documented(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments([*verb.split(), "--help"])
    usage = capsys.readouterr().out
    options = set(re.findall(r"--[a-z]+", usage)) - {"--help"}
    target = " TARGET" if verb == "export" else ""
    command = f"orchestrator {verb}{target}{' JOB' if 'JOB' in usage else ''}"
    assert command in README
    assert command in COMMAND_LINE
    assert {option for option in options if option not in COMMAND_LINE} == set()


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_every_kind_is_documented(kind: Kind) -> None:
    text = section(KINDS_PAGE, f"`{kind.name}`")
    field = kind.params.model_fields.get("method")
    methods = (
        {name for member in get_args(field.annotation) for name in get_args(member)}
        if field
        else set()
    )
    metrics = {metric for method in methods or [""] for metric in _metrics(kind, method)}
    assert metrics
    named = (*kind.outputs, *kind.inputs, *methods, *metrics)
    assert {word for word in named if f"`{word}`" not in text} == set()


def _metrics(kind: Kind, method: str) -> tuple[str, ...]:
    """The metrics of a stage with this method; `method` is ignored by kinds without methods."""
    return kind.metrics(kind.params.model_construct(None, **{"method": method}))


@pytest.mark.parametrize("snippet", re.findall(r"```yaml\n(.+?)```", DOWNSTREAM, re.DOTALL))
def test_stages_of_the_downstream_guide_are_valid(snippet: str, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(f"name: guide\nstore: ./store\n{snippet}")
    assert load_job(path, kinds=KINDS, base_dir=tmp_path).stages


def test_fields_in_the_downstream_guide_exist() -> None:
    named = set(re.findall(r"`([a-z_]+):", DOWNSTREAM))
    known = {
        field for kind in ("detection", "segmentation") for field in KINDS[kind].params.model_fields
    }
    assert named - known - {"mmdet", "mmseg"} == set()


def test_every_metric_of_an_evaluation_is_documented() -> None:
    text = section(KINDS_PAGE, "`evaluate`")
    classifiers = KINDS["pretrain"].evaluation
    assert classifiers is not None
    metrics = classifiers.metrics(KINDS["pretrain"].params.model_construct())
    assert {metric for metric in metrics if f"`{metric}`" not in text} == set()
    detectors = set(_evaluated(KINDS["detection"])) - set(_metrics(KINDS["detection"], "mask_rcnn"))
    assert {metric for metric in detectors if f"`{metric}`" not in text} == set()
    fields = EvaluateParams.model_fields
    assert {field for field in fields if f"`{field}" not in text} == set()


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_the_evaluation_page_has_every_metric_and_param(
    kind: Kind,
) -> None:
    page = (ROOT / "docs" / "evaluation.md").read_text()
    assert kind.evaluation is not None
    assert kind.evaluation.params is not None
    own = kind.evaluation.params.model_fields.keys() - kind.params.model_fields.keys()
    assert own == {"num_painted", "predictions"}
    assert {word for word in (*own, *_evaluated(kind)) if f"`{word}" not in page} == set()


def _evaluated(kind: Kind) -> tuple[str, ...]:
    """All metrics that an evaluation of this kind can report."""
    assert kind.evaluation is not None
    return kind.evaluation.metrics(
        kind.params.model_construct(None, **{"method": "mask_rcnn", "tta": True})
    )


def test_every_exit_code_is_documented() -> None:
    codes = {
        0,
        *(child.exit_code for child in OrchestratorError.__subclasses__()),
        OrchestratorError.exit_code,
    }
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", COMMAND_LINE, re.MULTILINE)} == codes


def test_the_job_in_the_readme_is_valid(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    (tmp_path / "job.yaml").write_text(text)
    command = [sys.executable, "-m", "orchestrator", "validate", "job.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr == ""


PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "tests" / "README.md"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_between_pages_has_a_target(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)\)", page.read_text())
    local = [link for link in links if "://" not in link and not link.startswith("<")]
    assert [link for link in local if not (page.parent / link).exists()] == []


def test_the_index_names_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    pages = [*(ROOT / "docs").glob("*.md"), *REFERENCE.glob("*.md")]
    names = {page.relative_to(ROOT / "docs").as_posix() for page in pages} - {"README.md"}
    assert {name for name in names if f"({name})" not in index} == set()
