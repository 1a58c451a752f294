"""`orchestrator artifacts verify` finds every broken link, and repairs it from another store."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.artifact import File, digest_of
from orchestrator.artifacts.verify import verify
from orchestrator.errors import SpecError
from orchestrator.store import Store
from orchestrator.store.input_cache import input_cache
from orchestrator.store.publish import blob_name, load_manifest, manifest_name
from tests.orchestrator.artifacts.published import Published, in_folder, publish_job, published
from tests.orchestrator.cli.artifacts.running import run, run_json

__all__ = ["in_folder", "published"]


@pytest.fixture
def copy(published: Published, tmp_path: Path) -> Published:
    """The same job in another store."""
    (tmp_path / "copy").mkdir()
    return publish_job(tmp_path / "copy", str(tmp_path / "copy" / "store"))


def faults(*words: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = run_json("verify", *words)["faults"]
    return found


def test_an_intact_job_is_ok(published: Published) -> None:
    code, text = run("verify", "job.yaml", "--deep")
    assert code == 0
    assert "boxes (" in text
    assert text.splitlines()[-1] == "2 stages, 4 files, 14 B: 0 faults (all bytes were read)"


def test_a_missing_blob_is_named_with_its_stage_and_command(published: Published) -> None:
    name = published.blob(b"weights")
    published.store.delete(name)
    code, text = run("verify", "job.yaml")
    assert code == 3
    assert f"  {name} (checkpoint/model.safetensors): missing: does not exist" in text
    assert "to make it again: orchestrator run job.yaml --force pretrain" in text


def test_a_wrong_size_is_found_without_reading_bytes(published: Published) -> None:
    published.store.write(published.blob(b"weights"), b"weight")
    (fault,) = faults("job.yaml")
    assert (fault["damage"], fault["stage"], fault["output"]) == (
        "wrong size",
        "pretrain",
        "checkpoint",
    )
    assert fault["text"] == "has 6 bytes instead of 7"


def test_a_flipped_byte_is_found_only_by_reading_bytes(published: Published) -> None:
    published.store.write(published.blob(b"weights"), b"weighty")
    assert faults("job.yaml") == []
    (fault,) = faults("job.yaml", "--deep")
    assert fault["damage"] == "wrong bytes"
    assert fault["key"] == published.plan["pretrain"].key


def _altered(store: Store, key: str) -> bytes:
    document = store.read(manifest_name(key))
    assert document is not None
    return document.replace(b"81.5", b"91.5")


def test_an_altered_number_in_a_manifest_is_found(published: Published) -> None:
    key = published.plan["pretrain"].key
    published.store.write(manifest_name(key), _altered(published.store, key))
    (fault,) = faults("--store", published.store.uri)
    assert fault["name"] == manifest_name(key)
    assert fault["text"].startswith("its content differs from its sha256")


def test_a_manifest_under_another_key_is_found(published: Published) -> None:
    key = published.plan["pretrain"].key
    other = published.store.read(manifest_name(published.plan["measured"].key))
    assert other is not None
    published.store.write(manifest_name(key), other)
    (fault,) = faults("--key", key, "--store", published.store.uri)
    assert fault["text"].startswith("is the manifest of another Key")


def test_a_recipe_that_is_not_the_keys_is_found(published: Published) -> None:
    manifest = load_manifest(published.store, published.plan["pretrain"].key)
    assert manifest is not None
    forged = manifest.model_copy(update={"recipe": {**manifest.recipe, "seed": 1}})
    published.store.write(manifest_name(manifest.key), forged.to_json())
    (fault,) = faults("job.yaml")
    assert fault["text"] == "its recipe has another sha256 than its Key"


def test_a_missing_input_is_a_fault_of_the_chain(published: Published) -> None:
    published.store.delete(manifest_name(published.plan["pretrain"].key))
    measured = published.plan["measured"].key
    found = faults("--key", measured, "--store", published.store.uri)
    assert [fault["text"] for fault in found] == [
        f"does not exist, but measured ({measured[:8]}) was made from it"
    ]
    assert [fault["name"] for fault in faults("job.yaml")] == [found[0]["name"]]


def test_a_missing_stage_that_another_one_needs_is_reported_once(in_folder: Published) -> None:
    pretrain, measured = (in_folder.plan[stage].key for stage in ("pretrain", "measured"))
    in_folder.store.delete(manifest_name(pretrain))
    checked = list(verify(in_folder.store, [pretrain, measured, pretrain], is_deep=False))
    assert [(one.key, len(one.faults)) for one in checked] == [
        (pretrain, 0),
        (measured, 0),
        (pretrain, 1),
    ]


def test_repair_writes_again_what_another_store_has(published: Published, copy: Published) -> None:
    published.store.write(published.blob(b"weights"), b"weighty")
    published.store.delete(published.blob(b"[]"))
    code, text = run("verify", "job.yaml", "--deep", "--repair", "--from", copy.store.uri)
    assert code == 0
    assert text.count(f"repaired from {copy.store.uri}") == 2
    assert text.splitlines()[-1].startswith("2 stages, 4 files, 14 B: 0 faults, 2 repaired")
    assert faults("job.yaml", "--deep") == []


def test_repair_takes_what_a_stage_has_fetched_to_this_machine(
    published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = File(path="x", sha256=hashlib.sha256(b"weights").hexdigest(), size=7)
    (tmp_path / "fetched").write_bytes(b"weights")
    input_cache({}).put(file, tmp_path / "fetched")
    published.store.delete(published.blob(b"weights"))
    code, text = run("verify", "job.yaml", "--repair")
    assert code == 0
    assert "repaired from this machine's cache" in text
    assert faults("job.yaml", "--deep") == []


def test_repair_of_a_manifest_checks_its_blobs_too(published: Published, copy: Published) -> None:
    key = published.plan["pretrain"].key
    published.store.write(manifest_name(key), _altered(published.store, key))
    published.store.delete(published.blob(b"weights"))
    assert run("verify", "job.yaml", "--repair", "--from", copy.store.uri)[0] == 0
    assert published.store.read(manifest_name(key)) == copy.store.read(manifest_name(key))
    assert faults("job.yaml", "--deep") == []


_KILLED = """
import os, signal, sys
from orchestrator.cli import main
from orchestrator.store.folder import FolderStore

def kill(self, *arguments):
    if str(arguments[-1]).startswith("manifests/") or str(arguments[0]).startswith("manifests/"):
        os.kill(os.getpid(), signal.SIGKILL)
FolderStore._replace = FolderStore.create = kill
main()
"""
"""A command that is killed just before it writes a manifest."""


def test_a_killed_repair_leaves_the_manifest_that_is_there(
    in_folder: Published, tmp_path: Path
) -> None:
    (tmp_path / "copy").mkdir()
    copy = publish_job(tmp_path / "copy", str(tmp_path / "copy/store"))
    key = in_folder.plan["pretrain"].key
    altered = _altered(in_folder.store, key)
    in_folder.store.write(manifest_name(key), altered)
    words = ("artifacts", "verify", "job.yaml", "--repair", "--from", copy.store.uri)
    done = subprocess.run([sys.executable, "-c", _KILLED, *words], check=False)
    assert done.returncode == -signal.SIGKILL
    assert in_folder.store.read(manifest_name(key)) == altered


def test_a_copy_that_is_damaged_too_repairs_nothing(published: Published, copy: Published) -> None:
    name = published.blob(b"weights")
    published.store.delete(name)
    copy.store.write(name, b"weighty")
    (fault,) = faults("job.yaml", "--repair", "--from", copy.store.uri)
    assert fault["repaired_from"] is None
    assert fault["command"] == "orchestrator run job.yaml --force pretrain"
    assert published.store.read(name) is None


def read_from_outside(published: Published, content: bytes) -> tuple[str, str]:
    """Publish a stage that has read a file from outside the job. Returns its Key and the name of
    the file's blob."""
    store, digest = published.store, hashlib.sha256(content).hexdigest()
    manifest = load_manifest(store, published.plan["pretrain"].key)
    assert manifest is not None
    recipe = {**manifest.recipe, "inputs": {"backbone": {"sha256": digest}}}
    key = digest_of(recipe)
    changed = manifest.model_copy(update={"key": key, "recipe": recipe})
    store.create(manifest_name(key), changed.to_json())
    store.write(blob_name(digest), content)
    return key, blob_name(digest)


@pytest.mark.parametrize(
    ("content", "damage"), [(None, "missing"), (b"bockbone", "wrong bytes"), (b"b", "wrong bytes")]
)
def test_files_from_outside_the_job_are_checked_and_repaired(
    published: Published, copy: Published, content: bytes | None, damage: str
) -> None:
    key, name = read_from_outside(published, b"backbone")
    words = ("--key", key, "--store", published.store.uri, "--deep")
    assert faults(*words) == []
    published.store.delete(name)
    if content is not None:
        published.store.write(name, content)
    (fault,) = faults(*words)
    assert (fault["name"], fault["damage"], fault["output"]) == (name, damage, "outside")
    copy.store.write(name, b"backbone")
    run("verify", *words, "--repair", "--from", copy.store.uri)
    assert published.store.read(name) == b"backbone"
    assert faults(*words) == []


def test_from_needs_repair(published: Published) -> None:
    with pytest.raises(SpecError, match=r"^--from: needs --repair"):
        run("verify", "job.yaml", "--from", published.store.uri)


def test_a_store_of_an_old_release_is_intact(tmp_path: Path) -> None:
    store = Path(__file__).parents[3] / "data" / "store"
    shutil.copytree(store, tmp_path / "store")
    code, text = run("verify", "--store", str(tmp_path / "store"), "--deep", "--json")
    assert (code, json.loads(text)["faults"]) == (0, [])
