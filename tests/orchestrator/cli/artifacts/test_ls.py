"""`orchestrator artifacts ls`, `pin` and `unpin` show and mark what a store has."""

from __future__ import annotations

import pytest

from orchestrator.artifacts.pins import pin_name
from orchestrator.cli.arguments import parse_arguments
from orchestrator.errors import IntegrityError, JobError, SpecError
from orchestrator.store.publish import manifest_name
from tests.orchestrator.artifacts.published import Published, published
from tests.orchestrator.cli.artifacts.running import run, run_json

__all__ = ["published"]


def test_a_job_lists_each_output_with_its_files_and_bytes(published: Published) -> None:
    listed = {stage["stage"]: stage for stage in run_json("ls", "job.yaml")["stages"]}
    assert listed["pretrain"]["finished"]["outputs"] == {
        "checkpoint": {"num_files": 2, "size": 9},
        "log": {"num_files": 1, "size": 3},
    }
    assert listed["pretrain"]["finished"]["run_id"] == "20260101T000000-a"
    assert listed["boxes"]["finished"] is None


def test_the_table_of_a_job_names_when_and_by_which_run(published: Published) -> None:
    code, text = run("ls", "job.yaml")
    line = next(line for line in text.splitlines() if line.startswith("pretrain"))
    words = [published.plan["pretrain"].key[:8], "checkpoint", "2", "9 B", "2026-01-01 00:00 UTC"]
    assert all(word in line for word in (*words, "20260101T000000-a"))
    assert code == 0
    assert "not finished" in text


def test_a_store_lists_every_manifest(published: Published) -> None:
    published.store.write(manifest_name("f" * 64), b"{")
    stages = run_json("ls", "--store", published.store.uri)["stages"]
    assert {stage["stage"] for stage in stages} == {"pretrain", "measured", None}
    _, text = run("ls", "--store", published.store.uri)
    assert "3 finished stages" in text
    assert "ffffffff  -                     -" in text


def test_a_key_is_named_by_its_first_digits(published: Published) -> None:
    key = published.plan["measured"].key
    listed = run_json("ls", "--key", key[:8], "--store", published.store.uri)["stages"]
    assert [stage["key"] for stage in listed] == [key]


def test_digits_that_begin_several_keys_are_refused(published: Published) -> None:
    for key in ("ab" * 32, "ac" * 32):
        published.store.write(manifest_name(key), b"{}")
    with pytest.raises(SpecError, match=r"^--key: a begins \d Keys; give more digits"):
        run("ls", "--key", "a", "--store", published.store.uri)


def test_an_empty_store_lists_nothing(store_uri: str) -> None:
    assert run_json("ls", "--store", store_uri)["stages"] == []


def test_a_pinned_stage_is_listed_as_pinned_until_it_is_unpinned(published: Published) -> None:
    run("pin", "job.yaml", "pretrain")
    assert "pinned" in run("ls", "job.yaml")[1].splitlines()[1]
    run("unpin", "job.yaml", "pretrain")
    assert published.store.read(pin_name(published.plan["pretrain"].key)) is None


def test_a_second_pin_keeps_the_first(published: Published) -> None:
    first = run_json("pin", "job.yaml", "pretrain")
    key = published.plan["pretrain"].key
    second = run_json("pin", "--key", key, "--store", published.store.uri)
    assert (first["is_new"], first["job"], first["key"]) == (True, "small", key)
    assert second == {**first, "is_new": False}


def test_a_pin_needs_a_finished_stage(published: Published) -> None:
    with pytest.raises(JobError, match=r"boxes \(\w{8}\) is not finished; `orchestrator run`"):
        run("pin", "job.yaml", "boxes")
    with pytest.raises(JobError, match="small: unknown stage 'pretrian', did you mean 'pretrain'"):
        run("pin", "job.yaml", "pretrian")


def test_a_damaged_pin_is_named(published: Published) -> None:
    name = pin_name(published.plan["pretrain"].key)
    published.store.write(name, b"{")
    with pytest.raises(IntegrityError, match=f"{name}: not a pin; delete it and pin again"):
        run("pin", "job.yaml", "pretrain")


def test_a_choice_that_names_nothing_is_refused(published: Published) -> None:
    with pytest.raises(SpecError, match=r"^--key: needs --store URI"):
        run("ls", "--key", "abc")
    with pytest.raises(SpecError, match=r"^artifacts ls without JOB: needs --store URI"):
        run("ls")
    with pytest.raises(JobError, match="has no manifest whose Key begins with 0123456789"):
        run("ls", "--key", "0123456789", "--store", published.store.uri)
    with pytest.raises(SpecError, match=r"^--key: must be hexadecimal digits, not '\.\./jobs'"):
        run("ls", "--key", "../jobs", "--store", published.store.uri)
    with pytest.raises(JobError, match=r"^other: has not run with the store "):
        run("ls", "job.yaml", "--set", "name=other")


def test_a_key_replaces_the_job(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse_arguments(["artifacts", "pin", "job.yaml", "pretrain", "--key", "abc"])
    assert "unrecognized arguments: job.yaml pretrain" in capsys.readouterr().err
