"""`orchestrator artifacts lineage` leads from a number back to the first inputs."""

from __future__ import annotations

import pytest

from orchestrator.errors import IntegrityError, JobError
from orchestrator.store.publish import manifest_name
from tests.orchestrator.artifacts.published import Published
from tests.orchestrator.artifacts.published import in_folder as published
from tests.orchestrator.cli.artifacts.running import run, run_json

__all__ = ["published"]


def test_a_number_leads_to_the_checkpoint_that_it_measures(published: Published) -> None:
    code, text = run("lineage", "job.yaml", "measured.top1")
    first, second, *others = text.splitlines()
    assert (code, first) == (0, "measured.top1 = 81.25 % (val, 100 samples)")
    assert second == f"measured (evaluate), Key {published.plan['measured'].key}"
    assert "  input: checkpoint = pretrain.checkpoint" in others
    assert f"    pretrain (pretrain), Key {published.plan['pretrain'].key}" in others


def test_the_tree_has_code_data_files_and_params(published: Published) -> None:
    lines = run("lineage", "job.yaml", "pretrain")[1].splitlines()
    assert "  code: source files sha256 cccccccccccc, not in a git checkout" in lines
    assert f"  data: {'d' * 64}" in lines
    sha256 = published.blob(b"weights").rpartition("/")[2]
    assert f"  file: checkpoint/model.safetensors sha256 {sha256}" in lines
    assert "  param: epochs 3" in lines


def test_the_document_nests_the_same_tree(published: Published) -> None:
    document = run_json("lineage", "job.yaml", "measured.top1")
    (read,) = document["inputs"]
    assert (document["metric"], document["key"]) == ("top1", published.plan["measured"].key)
    assert read["from"]["key"] == published.plan["pretrain"].key
    assert read["from"]["params"]["epochs"] == 3
    assert read["from"]["inputs"] == []


def test_a_key_needs_no_job(published: Published) -> None:
    key = published.plan["measured"].key
    text = run("lineage", "--key", key, "--store", published.store.uri, "top1")[1]
    assert text.startswith("measured.top1 = 81.25 %")
    assert f"pretrain (pretrain), Key {published.plan['pretrain'].key}" in text


def test_an_input_that_is_gone_is_named(published: Published) -> None:
    pretrain = published.plan["pretrain"].key
    published.store.delete(manifest_name(pretrain))
    text = run("lineage", "job.yaml", "measured")[1]
    assert f"    Key {pretrain}: its manifest is not in this store" in text


def test_a_damaged_input_is_an_error(published: Published) -> None:
    published.store.write(manifest_name(published.plan["pretrain"].key), b"{")
    with pytest.raises(IntegrityError, match="not a manifest"):
        run("lineage", "job.yaml", "measured")


def test_an_unknown_metric_is_refused(published: Published) -> None:
    with pytest.raises(JobError, match=r"^pretrain: has no metric 'top2', did you mean 'top"):
        run("lineage", "job.yaml", "pretrain.top2")
