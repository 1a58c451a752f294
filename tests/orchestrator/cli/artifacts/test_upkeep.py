"""The verbs gc, push, pull, bundle, and verify of a bundle, as a user calls them."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from orchestrator.cli.artifacts import pin
from orchestrator.errors import JobError, SpecError
from orchestrator.store import Store, open_store
from orchestrator.store.publish import manifest_name
from tests.orchestrator.artifacts.published import Published, publish_job
from tests.orchestrator.cli.artifacts.running import run, run_json


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Published:
    monkeypatch.chdir(tmp_path)
    return publish_job(tmp_path, str(tmp_path / "store"))


@pytest.fixture
def loose(published: Published) -> Path:
    """An old blob that nothing needs."""
    digest = "f" * 64
    published.store.write(f"blobs/sha256/ff/{digest}", b"loose")
    path = Path(published.store.uri, "blobs/sha256/ff", digest)
    os.utime(path, (time.time() - 86400 * 10,) * 2)
    return path


def test_gc_removes_nothing_without_yes(loose: Path) -> None:
    code, text = run("gc", "job.yaml", "--older-than", "5d")
    assert code == 0
    assert text.splitlines()[-1].endswith("would remove 5 B; add --yes to remove it")
    assert loose.exists()


def test_gc_removes_what_it_lists(published: Published, loose: Path) -> None:
    document = run_json("gc", "--store", published.store.uri, "--older-than", "5d", "--yes")
    assert (document["is_dry_run"], document["bytes"]) == (False, 5)
    assert document["kinds"]["blobs"]["num"] == 1
    assert not loose.exists()


def test_gc_keeps_young_blobs_whatever_the_option(published: Published) -> None:
    name = f"blobs/sha256/ff/{'f' * 64}"
    published.store.write(name, b"loose")
    assert run_json("gc", "job.yaml", "--older-than", "0s", "--yes")["bytes"] == 0
    assert published.store.read(name) == b"loose"


def test_gc_needs_a_store_and_a_readable_age(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SpecError, match="artifacts gc without JOB: needs --store URI"):
        run("gc")
    with pytest.raises(SystemExit):
        run("gc", "--store", "s", "--older-than", "30")
    assert "'30' is not an age such as 30d or 12h" in capsys.readouterr().err


def test_push_and_pull_report_what_they_copied(
    published: Published, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = run("push", "job.yaml", "--to", "other")
    assert (code, text.endswith("copied 2 and 4, 14 B\n")) == (0, True)
    assert "small: copied 4 files, 14 B; 0 files left" in capsys.readouterr().err
    document = run_json("pull", "job.yaml", "--from", "other", "--store", "third")
    assert (document["num_new_results"], document["num_new_blobs"]) == (2, 4)
    assert len(open_store("third").names("blobs")) == 4


@pytest.mark.usefixtures("published")
def test_a_signed_bundle_is_verified_with_the_keys_of_openssl() -> None:
    for command in (
        "openssl genpkey -algorithm ed25519 -out key.pem",
        "openssl pkey -in key.pem -pubout -out public.pem",
    ):
        subprocess.run(command.split(), check=True, capture_output=True)
    assert run("bundle", "job.yaml", "out.tar", "--weights", "--sign", "key.pem")[0] == 0
    code, text = run("verify", "out.tar", "--public-key", "public.pem")
    assert (code, "0 faults; signed by" in text) == (0, True)
    content = Path("out.tar").read_bytes()
    Path("out.tar").write_bytes(content.replace(b"weights\0", b"weighty\0"))
    code, text = run("verify", "out.tar")
    assert (code, "differs from its sha256" in text) == (3, True)


@pytest.mark.usefixtures("published")
def test_the_same_bundle_is_written_later() -> None:
    digests = [
        run_json("bundle", "job.yaml", name)["digests_sha256"] for name in ("a.tar", "b.tar")
    ]
    assert Path("a.tar").read_bytes() == Path("b.tar").read_bytes()
    assert digests[0] == digests[1]


@pytest.mark.usefixtures("published")
def test_names_and_options_that_do_not_fit_are_refused() -> None:
    with pytest.raises(SpecError, match=r"FILE: .*out\.zip: must end in \.tar"):
        run("bundle", "job.yaml", "out.zip")
    with pytest.raises(SpecError, match=r"--public-key: needs FILE\.tar instead of JOB"):
        run("verify", "job.yaml", "--public-key", "public.pem")


def test_pinning_a_result_that_gc_removes_is_an_error(
    published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = manifest_name(published.plan["pretrain"].key)

    def finish_gc(store: Store, names: list[str]) -> None:
        assert names == [manifest]
        store.delete(manifest)

    monkeypatch.setattr(pin, "await_unmarked", finish_gc)
    with pytest.raises(JobError, match="has just removed its results"):
        run("pin", "job.yaml", "pretrain")
    assert len(published.store.names("pins")) == 1
