"""`published: ROW`: which rows a stage may name, and where the field is kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.errors import SpecError
from orchestrator.fingerprint import KeyInputs, recipe_of
from orchestrator.spec import Job, job_document, job_from_document, load_job
from tests.orchestrator.spec.kinds import KINDS
from tests.orchestrator.spec.yaml.loader.test_loader import HEAD

ROWS = {"images/cat_small": "train", "scenes/cat_small": "finetune", "scenes/cat_base": "finetune"}


def _load(folder: Path, *lines: str, overrides: tuple[str, ...] = ()) -> Job:
    text = HEAD + "".join(f"    {line}\n" for line in lines)
    (folder / "job.yaml").write_text(text)
    return load_job(
        folder / "job.yaml", kinds=KINDS, published=ROWS, overrides=overrides, base_dir=folder
    )


def test_stage_has_the_published_row_that_it_names(tmp_path: Path) -> None:
    assert (
        _load(tmp_path, "published: images/cat_small").stages["pretrain"].published
        == "images/cat_small"
    )
    assert _load(tmp_path).stages["pretrain"].published is None


@pytest.mark.parametrize(
    ("written", "fault"),
    [
        (
            "images/cat_smal",
            r"unknown published row 'images/cat_smal', did you mean 'images/cat_small'\?",
        ),
        ("words", "unknown published row 'words'; known: images/cat_small"),
        ("scenes/cat_base", "scenes/cat_base is of kind finetune, but this stage is of kind train"),
        ("3", "must be a string, not 3"),
        ("''", "unknown published row ''; known: images/cat_small"),
    ],
)
def test_published_row_that_does_not_fit_is_a_fault(
    written: str, fault: str, tmp_path: Path
) -> None:
    with pytest.raises(SpecError, match=rf"job\.yaml:7:16: stages\.pretrain\.published: {fault}$"):
        _load(tmp_path, f"published: {written}")


def test_search_cannot_name_a_published_row(tmp_path: Path) -> None:
    search = (
        "\n  search: {kind: tune, of: pretrain, space: {lr: {uniform: [0.1, 1]}}, num_trials: 1, "
        "published: "
    )
    with pytest.raises(
        SpecError, match="images/cat_small is of kind train, but this stage is of kind tune"
    ):
        _load(tmp_path, f"epochs: 1{search}images/cat_small}}")


def test_every_row_is_refused_if_none_is_known(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(f"{HEAD}    published: images/cat_small\n")
    with pytest.raises(SpecError, match="unknown published row 'images/cat_small'; there are none"):
        load_job(tmp_path / "job.yaml", kinds=KINDS, base_dir=tmp_path)


def test_each_cell_of_a_matrix_can_name_its_own_row(tmp_path: Path) -> None:
    job = _load(tmp_path, "matrix: {model: [cat_small]}", "published: images/{model}")
    assert job.stages["pretrain/cat_small"].published == "images/cat_small"
    with pytest.raises(SpecError, match="unknown published row 'images/cat_tiny'"):
        _load(tmp_path, "matrix: {model: [cat_small, cat_tiny]}", "published: images/{model}")


def test_an_override_may_name_a_row(tmp_path: Path) -> None:
    job = _load(tmp_path, overrides=("stages.pretrain.published=images/cat_small",))
    assert job.stages["pretrain"].published == "images/cat_small"


def test_published_row_is_not_part_of_the_recipe(tmp_path: Path) -> None:
    without, with_row = _load(tmp_path), _load(tmp_path, "published: images/cat_small")
    key_inputs = KeyInputs(data="", rerun=0, input_keys={}, file_digests={})
    recipes = [recipe_of(job, job.stages["pretrain"], key_inputs) for job in (without, with_row)]
    assert recipes[0] == recipes[1]


def test_document_keeps_the_published_row(tmp_path: Path) -> None:
    job = _load(tmp_path, "published: images/cat_small")
    document = json.loads(json.dumps(job_document(job)))
    assert job_from_document(document, kinds=KINDS, where="latest.json") == job


def test_document_without_published_still_loads(tmp_path: Path) -> None:
    job = _load(tmp_path)
    document = json.loads(json.dumps(job_document(job)))
    del document["stages"]["pretrain"]["published"]
    assert job_from_document(document, kinds=KINDS, where="latest.json") == job
