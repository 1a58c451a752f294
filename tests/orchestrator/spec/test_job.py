"""The Job that a valid file is parsed into, and the document that the store keeps."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import FrameType

import pytest

from orchestrator.artifact import Ref
from orchestrator.errors import SpecError
from orchestrator.spec import Expectation, Resources, job_document, job_from_document, load_job
from tests.orchestrator.spec.kinds import GOOD, KINDS, TRAIN, Network, TrainParams, load_text
from tests.orchestrator.spec.yaml.loader.test_loader import HEAD


def test_stage_has_its_common_fields_and_its_params(tmp_path: Path) -> None:
    stage = load_text(GOOD, tmp_path).stages["pretrain"]
    assert stage.kind is TRAIN
    assert stage.resources == Resources(workers=2, gpus_per_worker=0.5)
    assert stage.expect == {"top1": Expectation(">=", 95.0)}
    assert stage.params_from == Ref("search", "best_params")
    assert stage.params == TrainParams(
        data=str(tmp_path / "data/digits"),
        model=Network(embed_dim=16, depths=(1, 2)),
        lr=1e-3,
        label="on",
    )


def test_document_keeps_a_range_of_workers(tmp_path: Path) -> None:
    job = load_text(GOOD.replace("{workers: 2,", "{workers: [2, 4],"), tmp_path)
    assert job.stages["pretrain"].resources.workers == (2, 4)
    assert job.stages["pretrain"].worker_counts == (2, 3, 4)
    read = job_from_document(json.loads(json.dumps(job_document(job))), kinds=KINDS, where="store")
    assert read.stages["pretrain"].resources == job.stages["pretrain"].resources


def test_seed_of_a_stage_takes_precedence_over_the_jobs(tmp_path: Path) -> None:
    job = load_text(GOOD, tmp_path)
    assert job.seed == 7
    assert job.stages["pretrain"].seed == 7
    assert job.stages["segment"].seed == 3


def test_absolute_data_folder_is_not_changed(tmp_path: Path) -> None:
    assert load_text(GOOD, tmp_path).stages["segment"].params.data == "/scenes"


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e-3", 1e-3),
        ("5.0e-4", 5e-4),
        (".5", 0.5),
        ("1", 1.0),
        ("0x1", 1.0),
        ("0o1", 1.0),
        ("01", 1.0),
        ("~", None),
        ("null", None),
    ],
)
def test_numbers_are_parsed_as_in_yaml_1_2(
    written: str, value: float | None, tmp_path: Path
) -> None:
    assert load_text(f"{HEAD}    lr: {written}\n", tmp_path).stages["pretrain"].params.lr == value


@pytest.mark.parametrize(
    "text", ["on", "no", "1:30", "2020-01-01", "1_000", "0b1", "'3'", '"null"', ".e3", "e5", "="]
)
def test_words_with_a_meaning_in_yaml_1_1_are_strings(text: str, tmp_path: Path) -> None:
    label = load_text(f"{HEAD}    label: {text}\n", tmp_path).stages["pretrain"].params.label
    assert label == text.strip("'\"")


def test_aliases_are_replaced_by_their_values(tmp_path: Path) -> None:
    text = HEAD.replace("data/digits", "&data digits") + "  other: {kind: train, data: *data}\n"
    job = load_text(text, tmp_path)
    assert job.stages["other"].params == job.stages["pretrain"].params


def test_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    assert load_text("\ufeff" + GOOD, tmp_path).name == "digits"


@pytest.mark.parametrize(
    ("text", "met", "missed"),
    [(">= 95", 95.0, 94.9), ("> 1", 1.1, 1.0), ("<=3.5", 3.5, 3.6), (" < -2 ", -3.0, -2.0)],
)
def test_expectation_compares(text: str, met: float, missed: float) -> None:
    expectation = Expectation.parse(text)
    assert expectation.is_met_by(met)
    assert not expectation.is_met_by(missed)
    assert Expectation.parse(str(expectation)) == expectation


def test_document_is_json_that_restores_the_same_job(tmp_path: Path) -> None:
    job = load_text(GOOD, tmp_path)
    document = json.loads(json.dumps(job_document(job), allow_nan=False))
    assert document["stages"]["pretrain"]["expect"] == {"top1": ">= 95"}
    assert job_from_document(document, kinds=KINDS, where="latest.json") == job


@pytest.mark.parametrize("broken", [{}, {"name": "x", "store": "s", "seed": 0, "stages": {"a": 3}}])
def test_document_that_is_not_a_job_is_refused(broken: dict[str, object]) -> None:
    with pytest.raises(SpecError, match=r"^latest\.json: is not a job of this version"):
        job_from_document(broken, kinds=KINDS, where="latest.json")


def test_document_with_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    document = job_document(load_text(GOOD, tmp_path))
    with pytest.raises(SpecError, match="finetune"):
        job_from_document(document, kinds={"train": TRAIN}, where="latest.json")


def _num_calls(text: str, folder: Path) -> int:
    """Count the Python function calls that loading a job takes."""
    num_calls = 0

    def count(frame: FrameType, event: str, arg: object) -> None:
        nonlocal num_calls
        num_calls += event == "call"

    sys.setprofile(count)
    try:
        load_text(text, folder)
    finally:
        sys.setprofile(None)
    return num_calls


def test_loading_a_job_is_linear_in_its_stages(tmp_path: Path) -> None:
    stage = (
        "  s{}: {{kind: train, data: d, model: {{depths: [1, 2]}}, epochs: 3, lr: 1e-3, "
        "params_from: s.best_params}}\n"
    )
    search = "  s: {kind: tune, of: s0, num_trials: 1, space: {lr: {uniform: [0.1, 1]}}}\n"
    head = "name: x\nstore: s\nstages:\n" + search
    few, many = (
        head + "".join(stage.format(index) for index in range(count)) for count in (50, 200)
    )
    assert _num_calls(many, tmp_path) < 4.5 * _num_calls(few, tmp_path)


def test_spec_imports_neither_torch_nor_ray() -> None:
    code = (
        "import sys, orchestrator.spec; assert not {'torch', 'ray', 'pipelines'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_relative_locations_are_refused_in_submitted_jobs(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(GOOD)
    with pytest.raises(SpecError) as caught:
        load_job(tmp_path / "job.yaml", kinds=KINDS, base_dir=None)
    found = [
        str(fault).removeprefix(f"{tmp_path}/job.yaml:").partition(": a Ray job")[0]
        for fault in caught.value.faults
    ]
    assert found == [
        "3:8: store: must be absolute, not './artifacts'",
        "15:11: stages.pretrain.data: must be absolute, not 'data/digits'",
    ]
    text = GOOD.replace("./artifacts", "s3://bucket/prefix").replace("data/digits", "sample:digits")
    (tmp_path / "job.yaml").write_text(text)
    job = load_job(tmp_path / "job.yaml", kinds=KINDS, base_dir=None)
    assert job.store == "s3://bucket/prefix"
    assert job.stages["pretrain"].params.data == "sample:digits"


def test_data_fingerprint_must_be_a_sha256(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"stages\.pretrain\.data_fingerprint: must match "):
        load_text(GOOD.replace("lr: 1e-3", "data_fingerprint: abc"), tmp_path)


def test_accelerator_is_a_label_next_to_the_others() -> None:
    resources = Resources(gpus_per_worker=1, accelerator="H100", labels={"zone": "!a"})
    assert resources.selector == {"zone": "!a", "ray.io/accelerator-type": "H100"}


def test_accelerator_without_gpus_is_refused() -> None:
    with pytest.raises(ValueError, match="accelerator H100 needs gpus_per_worker above 0"):
        Resources(accelerator="H100")


@pytest.mark.parametrize("wanted", ["-a", "in()", "in(a,", "a b", "!!a", "in(a, !b)"])
def test_label_that_ray_cannot_select_is_refused(wanted: str) -> None:
    with pytest.raises(ValueError, match="is not a label selector of Ray"):
        Resources(labels={"zone": wanted})


@pytest.mark.parametrize("wanted", ["a", "!a-1", "in(a, b)", "!in(a,b.c)"])
def test_label_selectors_of_ray_are_accepted(wanted: str) -> None:
    assert Resources(labels={"ray.io/zone": wanted}).selector == {"ray.io/zone": wanted}
