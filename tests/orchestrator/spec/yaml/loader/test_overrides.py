"""`--set` and `--store`: checked by the same models as the file; faults name the option."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import SpecError
from tests.orchestrator.spec.kinds import GOOD, Network, load_text
from tests.orchestrator.spec.yaml.loader.test_loader import HEAD


def test_set_replaces_a_field(tmp_path: Path) -> None:
    assert load_text(GOOD, tmp_path, "stages.pretrain.lr=5e-4").stages["pretrain"].params.lr == 5e-4


def test_set_adds_a_field_that_the_file_lacks(tmp_path: Path) -> None:
    job = load_text(
        GOOD, tmp_path, "stages.pretrain.warmup_epochs=2", "stages.segment.resources.workers=4"
    )
    assert job.stages["pretrain"].params.warmup_epochs == 2
    assert job.stages["segment"].resources.workers == 4


def test_set_creates_a_mapping_that_the_file_lacks(tmp_path: Path) -> None:
    job = load_text(HEAD, tmp_path, "stages.pretrain.model.embed_dim=8")
    assert job.stages["pretrain"].params.model == Network(embed_dim=8)


def test_later_set_replaces_a_mapping_by_a_word(tmp_path: Path) -> None:
    job = load_text(
        HEAD, tmp_path, "stages.pretrain.model={depths: [3]}", "stages.pretrain.model=cat_small"
    )
    assert job.stages["pretrain"].params.model == "cat_small"


def test_set_value_may_contain_an_equals_sign(tmp_path: Path) -> None:
    job = load_text(
        HEAD, tmp_path, "stages.pretrain.label=a=b", "stages.pretrain.expect={top1: '>= 5'}"
    )
    assert job.stages["pretrain"].params.label == "a=b"
    assert str(job.stages["pretrain"].expect["top1"]) == ">= 5"


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("stages.pretrain.epochs=0", "stages.pretrain.epochs: must be at least 1, not 0"),
        ("stages.pretrain.epochs='3'", "stages.pretrain.epochs: must be a whole number, not '3'"),
        ("stages.pretrain.epoch=3", "stages.pretrain.epoch: unknown field, did you mean 'epochs'?"),
        (
            "stages.pretrain.modle.depths=[3]",
            "stages.pretrain.modle: unknown field, did you mean 'model'?",
        ),
        (
            "stages.pretran.epochs=3",
            "stages.pretran.epochs: unknown stage 'pretran', did you mean 'pretrain'?",
        ),
        ("stages.new={kind: train, data: d}", "stages.new: unknown stage 'new'; known: pretrain"),
        ("nme=x", "nme: unknown field, did you mean 'name'?"),
        ("name", "'name': must be written PATH=VALUE, such as stages.pretrain.epochs=3"),
        ("=3", "'=3': must be written PATH=VALUE, such as stages.pretrain.epochs=3"),
        (
            "stages..x=3",
            "'stages..x=3': must be written PATH=VALUE, such as stages.pretrain.epochs=3",
        ),
        (
            "stages.pretrain.data.x=3",
            "stages.pretrain.data.x: cannot be set: its parent is 'data/digits', not a "
            "mapping; set the parent as a whole",
        ),
        (
            "stages.pretrain.scale.0=3",
            (
                "stages.pretrain.scale.0: cannot be set: its parent is a list; set the parent as "
                "a whole"
            ),
        ),
        ("stages.pretrain.lr=.nan", "stages.pretrain.lr: must be a finite number, not .nan"),
        (
            "stages.pretrain.label=!!python/name:os.system",
            "stages.pretrain.label: YAML tags (tag:yaml.org,2002:python/name:os.system) are not "
            "allowed; write the plain value",
        ),
        (
            "stages.pretrain.model={depths: [1], depths: [2]}",
            "stages.pretrain.model.depths: duplicate key",
        ),
        (
            "stages.pretrain.scale=[1",
            "stages.pretrain.scale: invalid YAML: while parsing a flow sequence, expected ',' or "
            "']', "
            "but got '<stream end>'",
        ),
        (
            "store=gs://bucket/x",
            (
                "store: unknown kind of store 'gs://'; known: a folder, file:///ABSOLUTE/PATH, "
                "s3://BUCKET/PREFIX"
            ),
        ),
    ],
)
def test_fault_of_set_names_the_option_and_its_path(
    override: str, fault: str, tmp_path: Path
) -> None:
    with pytest.raises(SpecError) as caught:
        load_text(HEAD + "    scale: [0.5, 1.0]\n", tmp_path, override)
    assert str(caught.value) == f"--set {fault}"


def test_faults_of_file_set_and_store_are_reported_together(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        load_text(HEAD + "    epoch: 3\n", tmp_path, "seed=x", "broken", store="gs://bucket")
    sources = [fault.source for fault in caught.value.faults]
    assert sources[0] == str(tmp_path / "job.yaml")
    assert sorted(sources[1:]) == ["--set", "--set", "--store"]


def test_faults_of_set_are_reported_if_the_file_is_not_yaml(tmp_path: Path) -> None:
    with pytest.raises(
        SpecError, match=r"job\.yaml:1:5: invalid YAML(.|\n)*--set 'broken': must be written"
    ):
        load_text("a: {", tmp_path, "broken")


@pytest.mark.parametrize(
    ("store", "location"),
    [
        ("artifacts", "{here}/artifacts"),
        ("./a/../b", "{here}/b"),
        ("/srv/store/", "/srv/store"),
        ("file:///srv/my%20store", "/srv/my store"),
        ("s3://bucket", "s3://bucket"),
        ("s3://my.bucket-1/a/b_c/", "s3://my.bucket-1/a/b_c"),
    ],
)
def test_store_becomes_absolute(store: str, location: str, tmp_path: Path) -> None:
    expected = location.format(here=tmp_path)
    assert load_text(f"{HEAD}", tmp_path, f"store={store}").store == expected
    assert load_text(HEAD.replace("store: ./store\n", ""), tmp_path, store=store).store == expected


@pytest.mark.parametrize(
    ("store", "fault"),
    [
        (
            "gs://bucket/x",
            (
                "unknown kind of store 'gs://'; known: a folder, file:///ABSOLUTE/PATH, "
                "s3://BUCKET/PREFIX"
            ),
        ),
        (
            "s3:///x",
            (
                "must be s3://BUCKET/PREFIX, not 's3:///x'; a bucket name has 3 to 63 characters "
                "of a-z, 0-9, '.' and '-'"
            ),
        ),
        (
            "s3://Bucket",
            (
                "must be s3://BUCKET/PREFIX, not 's3://Bucket'; a bucket name has 3 to 63 "
                "characters of a-z, 0-9, '.' and '-'"
            ),
        ),
        (
            "s3://secret@bucket/x",
            (
                "must be s3://BUCKET/PREFIX without credentials; provide them through AWS's "
                "standard chain (environment variables, ~/.aws)"
            ),
        ),
        (
            "s3://bucket/x?region=eu",
            (
                "the prefix of s3://BUCKET/PREFIX must be plain names separated by '/', not "
                "'s3://bucket/x?region=eu'"
            ),
        ),
        (
            "s3://bucket/a/../b",
            (
                "the prefix of s3://BUCKET/PREFIX must be plain names separated by '/', not "
                "'s3://bucket/a/../b'"
            ),
        ),
        ("file://artifacts", "must be file:///ABSOLUTE/PATH, not 'file://artifacts'"),
        ("file:///a%00b", "must be file:///ABSOLUTE/PATH, not 'file:///a%00b'"),
        ("~/store", "~ is not expanded; write the full path, not '~/store'"),
        ("", "must not be empty"),
    ],
)
def test_invalid_store_is_refused(store: str, fault: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        load_text(HEAD, tmp_path, store=store)
    assert str(caught.value) == f"--store: {fault}"


@pytest.mark.parametrize("data", ["s3://bucket/imagenet", "s3://bucket"])
def test_data_in_s3_are_kept_as_written(data: str, tmp_path: Path) -> None:
    job = load_text(HEAD, tmp_path, f"stages.pretrain.data={data}")
    assert job.stages["pretrain"].params.model_dump()["data"] == data


def test_data_in_an_invalid_bucket_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        SpecError,
        match=r"stages\.pretrain\.data: must be s3://BUCKET/PREFIX, not 's3://B/x'; a bucket name",
    ):
        load_text(HEAD, tmp_path, "stages.pretrain.data=s3://B/x")
