"""The reference is what the code says: `make docs` would change nothing."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.artifact import Manifest
from orchestrator.spec.schema import job_schema
from pipelines import KINDS

ROOT = Path(__file__).parents[2]
STORE_PAGE = (ROOT / "docs" / "reference" / "store.md").read_text()
PARAMS_PAGE = (ROOT / "docs" / "reference" / "params.md").read_text()
GENERATED = [page for page in (ROOT / "docs").rglob("*.md") if "[[[cog" in page.read_text()]


@pytest.mark.parametrize("page", GENERATED, ids=lambda page: page.name)
def test_generated_parts_are_current(page: Path) -> None:
    prologue = "from tests.docs import reference"
    done = subprocess.run(
        [sys.executable, "-m", "cogapp", "--check", "--diff", "-I", ".", "-p", prologue, str(page)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"run `make docs`\n{done.stdout}{done.stderr}"


def test_the_params_page_has_every_param_of_every_kind() -> None:
    definitions = job_schema(KINDS)["$defs"]
    stages = [stage for name, stage in definitions.items() if name.startswith("stage-")]
    common = set.intersection(*(set(stage["properties"]) for stage in stages))
    fields = {field for stage in stages for field in stage["properties"]}
    named = set(re.findall(r"^- \*\*`(\w+)`\*\*", PARAMS_PAGE, re.MULTILINE))
    assert fields - common - named - {"params_from"} == set()


def test_the_params_page_explains_every_mapping_it_names() -> None:
    named = set(re.findall(r"a mapping, `(\w+)`", PARAMS_PAGE))
    explained = set(re.findall(r"^### `(\w+)`", PARAMS_PAGE, re.MULTILINE))
    assert named - explained == set()


def test_the_store_page_has_every_field_of_a_manifest() -> None:
    assert {field for field in Manifest.model_fields if f"`{field}`" not in STORE_PAGE} == set()


def test_the_store_page_has_every_folder_of_a_store() -> None:
    folders = {path.name for path in (ROOT / "tests" / "data" / "store").iterdir()}
    assert {folder for folder in folders if f"`{folder}/" not in STORE_PAGE} == set()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_site_has_the_pages_outside_docs(site: Path) -> None:
    for page in ("overview", "contributing", "changelog", "tests"):
        assert (site / page / "index.html").exists()


def test_the_site_loads_nothing_from_other_hosts(site: Path) -> None:
    loaded = re.compile(r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=[\"']?(?:https?:)?//")
    assert [page for page in site.rglob("*.html") if loaded.search(page.read_text())] == []
