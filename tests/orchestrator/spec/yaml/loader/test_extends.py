"""`extends`: how a file is merged over another one, and which file a fault names."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import SpecError
from tests.orchestrator.spec.kinds import GOOD, load_text

OVER = """\
extends: base/good.yaml
name: small
stages:
  pretrain:
    epochs: 3
    model: {depths: [1]}
  extra: {kind: finetune, backbone: pretrain.checkpoint, data: d}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the extended file."""
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "good.yaml").write_text(GOOD)
    return tmp_path


def test_extends_merges_mappings_and_replaces_other_values(folder: Path) -> None:
    job = load_text(OVER, folder)
    assert job.name == "small"
    assert job.seed == 7
    assert list(job.stages) == ["search", "pretrain", "segment", "extra"]
    params = job.stages["pretrain"].params
    assert params.epochs == 3
    assert params.lr == 1e-3
    assert params.model.embed_dim == 16
    assert params.model.depths == (1,)


def test_data_paths_are_relative_to_the_current_folder(folder: Path) -> None:
    assert load_text(OVER, folder).stages["pretrain"].params.data == f"{folder}/data/digits"


def test_files_extend_each_other_in_a_chain(folder: Path) -> None:
    (folder / "base" / "middle.yaml").write_text("extends: good.yaml\nseed: 9\nname: middle\n")
    job = load_text(OVER.replace("good.yaml", "middle.yaml"), folder)
    assert job.name == "small"
    assert job.seed == 9


def test_fault_names_the_file_that_contains_it(folder: Path) -> None:
    base = folder / "base" / "good.yaml"
    base.write_text(GOOD.replace("num_trials: 3", "num_trials: 0"))
    with pytest.raises(SpecError) as caught:
        load_text(OVER.replace("epochs: 3", "epoch: 3"), folder)
    assert str(caught.value).splitlines() == [
        f"{folder}/job.yaml:5:5: stages.pretrain.epoch: unknown field, did you mean 'epochs'?",
        f"{base}:10:17: stages.search.num_trials: must be at least 1, not 0",
    ]


@pytest.mark.parametrize(
    ("named", "fault"),
    [
        (
            "base/none.yaml",
            "1:10: extends: {folder}/base/none.yaml does not exist or is not a file",
        ),
        ("base", "1:10: extends: {folder}/base does not exist or is not a file"),
        ("3", "1:10: extends: must be the path of a job file, relative to the folder of this one"),
        (
            "[base/good.yaml]",
            "1:10: extends: must be the path of a job file, relative to the folder of this one",
        ),
        ("job.yaml", "1:10: extends: a cycle of files: {folder}/job.yaml -> {folder}/job.yaml"),
    ],
)
def test_invalid_extends_is_a_fault_at_its_position(folder: Path, named: str, fault: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_text(OVER.replace("base/good.yaml", named), folder)
    assert str(caught.value).removeprefix(f"{folder}/job.yaml:") == fault.format(folder=folder)


def test_cycle_of_files_is_reported_with_its_chain(folder: Path) -> None:
    base = folder / "base" / "good.yaml"
    base.write_text("extends: ../job.yaml\n")
    with pytest.raises(SpecError) as caught:
        load_text(OVER, folder)
    chain = f"{folder}/job.yaml -> {base} -> {folder}/base/../job.yaml"
    assert str(caught.value) == f"{base}:1:10: extends: a cycle of files: {chain}"


def test_invalid_yaml_in_a_base_is_reported_in_the_base(folder: Path) -> None:
    (folder / "base" / "good.yaml").write_text("a: {")
    with pytest.raises(SpecError, match=rf"^{folder}/base/good\.yaml:1:5: invalid YAML"):
        load_text(OVER, folder)


@pytest.mark.parametrize(
    ("named", "why"),
    [
        ("x" * 300, "cannot be read: File name too long"),
        ("loop.yaml", "does not exist or is not a file"),
    ],
)
def test_base_that_cannot_be_opened_is_a_fault_at_extends(
    folder: Path, named: str, why: str
) -> None:
    (folder / "loop.yaml").symlink_to("loop.yaml")
    with pytest.raises(SpecError, match=rf"job\.yaml:1:10: extends: .*{named} {why}"):
        load_text(OVER.replace("base/good.yaml", named), folder)
