"""A user id without a name, without a home, or with a home that is not writable."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from orchestrator.account import complete_environment

ROOT = Path(__file__).parents[2]
UID = 12345
PRIVATE = f"/tmp/orchestrator-home-{UID}"
# The interpreter may be in a folder of root: its files can be read, but only /tmp can be written.
AS_UID = (
    *("setpriv", f"--reuid={UID}", "--regid=0", "--clear-groups"),
    *("--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"),
)
LIBRARIES = """
import orchestrator.cluster
import ray.train  # looks for a home when it is imported
import json, getpass, os, pathlib, torch.hub
from torch._inductor.runtime.cache_dir_utils import cache_dir
folders = [cache_dir(), torch.hub.get_dir()]
print(json.dumps({"user": getpass.getuser(), "home": str(pathlib.Path.home()), "folders": folders}))
"""
CACHES = """
from orchestrator.cache_room import cache_folder
folder = cache_folder()
import json, getpass, os, pathlib, matplotlib
folders = [str(folder), matplotlib.get_cachedir(), matplotlib.get_configdir(),
  os.environ["TRITON_HOME"]]
for folder in folders:
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
print(json.dumps({"user": getpass.getuser(), "home": str(pathlib.Path.home()), "folders": folders}))
"""

needs_root = pytest.mark.skipif(
    os.getuid() != 0 or shutil.which("setpriv") is None,
    reason="changes the user id, which only root can",
)


@pytest.fixture
def work_dir() -> Iterator[Path]:
    """A folder of the other user. Caches of earlier tests are removed."""
    shutil.rmtree(PRIVATE, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, UID, 0)
        yield Path(folder)
    for left in (PRIVATE, f"/tmp/torchinductor_uid-{UID}"):
        shutil.rmtree(left, ignore_errors=True)


def _run(
    work_dir: Path, env: Mapping[str, str], *arguments: str
) -> subprocess.CompletedProcess[str]:
    kept = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    command = [*AS_UID, sys.executable, *arguments]
    return subprocess.run(
        command,
        cwd=work_dir,
        env={**kept, **env},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


@needs_root
@pytest.mark.parametrize(
    ("env", "code", "home"),
    [({}, LIBRARIES, PRIVATE), ({"HOME": "/"}, CACHES, "/")],
    ids=["no home", "home of root"],
)
def test_libraries_get_a_user_name_and_writable_folders(
    work_dir: Path, env: dict[str, str], code: str, home: str
) -> None:
    done = _run(work_dir, env, "-c", code)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["user"] == f"uid-{UID}"
    assert found["home"] == home
    assert all(
        folder.startswith((PRIVATE, f"/tmp/torchinductor_uid-{UID}")) for folder in found["folders"]
    )


@needs_root
@pytest.mark.parametrize(
    "env",
    [
        pytest.param({}, id="no home", marks=pytest.mark.slow),
        pytest.param({"HOME": "/"}, id="home of root", marks=pytest.mark.stress),
    ],
)
def test_job_trains_under_a_user_id_without_a_name(work_dir: Path, env: dict[str, str]) -> None:
    job = ROOT / "jobs" / "quickstart.yaml"
    sets = {"pretrain.data": "sample:digits", "pretrain.data_fraction": 0.3, "pretrain.epochs": 1}
    sets |= {"search.num_trials": 1, "search.overrides": "{epochs: 1}"}
    options = [word for name, value in sets.items() for word in ("--set", f"stages.{name}={value}")]
    run = (
        "-m",
        "orchestrator",
        "run",
        str(job),
        "--json",
        "--only",
        "pretrain",
        "--store",
        str(work_dir / "store"),
    )
    done = _run(work_dir, env, *run, *options)
    assert done.returncode == 0, done.stderr[-3000:]
    values = {
        (cell["stage"], cell["metric"]): cell["value"] for cell in json.loads(done.stdout)["cells"]
    }
    assert values["pretrain", "top1"] is not None


def test_complete_account_is_not_changed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "made" / "later"))
    monkeypatch.setenv("USER", "somebody")
    before = dict(os.environ)
    complete_environment()
    assert dict(os.environ) == before


def test_cache_folders_set_by_the_user_are_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    private = tmp_path / "tmp"
    private.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(private))
    # Root can write anywhere, but not below a file.
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    monkeypatch.setenv("XDG_CACHE_HOME", "/mine")
    for name in ("MPLCONFIGDIR", "TRITON_HOME"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv(name, "")  # so that monkeypatch undoes what is set below
        del os.environ[name]
    complete_environment()
    folder = private / f"orchestrator-home-{os.getuid()}"
    assert os.environ["HOME"] == str(tmp_path / "file")
    assert os.environ["XDG_CACHE_HOME"] == "/mine"
    assert os.environ["MPLCONFIGDIR"] == str(folder / ".config/matplotlib")
    assert os.environ["TRITON_HOME"] == str(folder)


def test_folder_that_others_can_write_is_not_used_for_caches(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Libraries load code from their caches."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    planted = tmp_path / f"orchestrator-home-{os.getuid()}"
    planted.mkdir()
    planted.chmod(0o777)
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    for name in ("XDG_CACHE_HOME", "MPLCONFIGDIR", "TRITON_HOME"):
        monkeypatch.setenv(name, "")
        del os.environ[name]
    complete_environment()
    chosen = Path(os.environ["TRITON_HOME"])
    assert chosen != planted
    assert chosen.stat().st_mode & 0o777 == 0o700
