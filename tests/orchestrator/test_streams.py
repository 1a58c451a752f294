"""Commands whose stdout is closed, on a full disk, or a pipe without a reader."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
CLOSED = "stdout: cannot be written: it is closed; redirect it, such as >/dev/null\n"
FULL = "stdout: cannot be written: No space left on device; write the results elsewhere\n"

OURS = "from orchestrator.streams import exit_code_of"
CAT_MODELS = "import runpy; exit_code_of = runpy.run_path('cat_model/printing.py')['exit_code_of']"
LEAVES = "> >(exec true)"
"""A pipe whose reader leaves at once."""


def _shell(command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", command],
        cwd=cwd,
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def _python(*arguments: str) -> str:
    return " ".join([sys.executable, *arguments])


def _script(tmp_path: Path, imports: str, *body: str) -> str:
    """Return a shell command that runs a Python command with this body from the project root."""
    lines = [
        "import pathlib, sys, time",
        imports,
        "def command():",
        *(f"    {line}" for line in body),
    ]
    (tmp_path / "script.py").write_text("\n".join([*lines, "sys.exit(exit_code_of(command))"]))
    return f"cd {ROOT} && {_python(str(tmp_path / 'script.py'))}"


@pytest.mark.parametrize("imports", [OURS, CAT_MODELS])
@pytest.mark.parametrize(
    ("redirection", "codes", "error"),
    [
        ("", {4}, ""),
        (">&-", {3}, f"error: {CLOSED}"),
        ("<&- >&-", {3}, f"error: {CLOSED}"),
        (">/dev/full", {3}, f"error: {FULL}"),
        (LEAVES, {0, 4}, ""),
    ],
)
def test_command_prints_at_most_one_error_line(
    imports: str, redirection: str, codes: set[int], error: str, tmp_path: Path
) -> None:
    script = _script(tmp_path, imports, "time.sleep(0.1)", "print('x' * 100_000)", "return 4")
    done = _shell(f"{script} {redirection}", tmp_path)
    assert done.stderr == error
    assert done.returncode in codes


@pytest.mark.parametrize("imports", [OURS, CAT_MODELS])
def test_command_that_prints_nothing_needs_no_stdout(imports: str, tmp_path: Path) -> None:
    done = _shell(f"{_script(tmp_path, imports, 'return 2')} >&-", tmp_path)
    assert done.returncode == 2
    assert done.stderr == ""


def test_command_continues_after_its_reader_has_left(tmp_path: Path) -> None:
    body = ["for number in range(2000):", "    print(f'{number:01000}', flush=True)"]
    script = _script(
        tmp_path, OURS, *body, f"pathlib.Path({str(tmp_path / 'made')!r}).touch()", "return 0"
    )
    done = _shell(f"set -o pipefail; ({script}) | head -1", tmp_path)
    assert done.returncode == 0
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1
    assert (tmp_path / "made").exists()


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", f"2{LEAVES}"])
def test_stderr_that_cannot_be_written_is_ignored(redirection: str, tmp_path: Path) -> None:
    opened = tmp_path / "opened"
    body = [
        "time.sleep(0.1)",
        f"with open({str(opened)!r}, 'w'):  # it must not get the number of a closed stream",
        "    print('progress' * 10_000, file=sys.stderr, flush=True)",
        "print('result')",
        "return 0",
    ]
    done = _shell(f"{_script(tmp_path, OURS, *body)} {redirection}", tmp_path)
    assert done.returncode == 0
    assert done.stdout == "result\n"
    assert opened.read_text() == ""


def test_every_command_of_the_project_uses_guarded_streams() -> None:
    sources = [
        path
        for package in ("orchestrator", "pipelines", "cat_model")
        for path in (ROOT / package).rglob("*.py")
    ]
    commands = [path for path in sources if '\nif __name__ == "__main__":' in path.read_text()]
    assert len(commands) >= 7
    for path in commands:
        end = path.read_text().partition('\nif __name__ == "__main__":\n')[2].strip()
        ends_guarded = (
            end.startswith("sys.exit(exit_code_of(") or path.parent.name == "orchestrator"
        )
        assert ends_guarded, f"{path.relative_to(ROOT)} ends with {end}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a job and the images that it trains on."""
    job = "name: small\nstore: ./store\nstages:\n  pretrain: {kind: pretrain, data: images}\n"
    (tmp_path / "job.yaml").write_text(job)
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / "images" / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / "images" / split / name / "1.png")
    return tmp_path


@pytest.mark.parametrize(
    ("verb", "redirection", "code", "error"),
    [
        ("schema", LEAVES, 0, ""),
        ("plan job.yaml --json", LEAVES, 0, ""),
        ("plan job.yaml", ">/dev/full", 3, FULL),
        ("validate job.yaml --json", ">&-", 3, CLOSED),
        ("--help", ">/dev/full", 3, f"error: {FULL}"),
        ("validate nowhere.yaml --json", LEAVES, 2, "nowhere.yaml: no such file\n"),
    ],
)
def test_verb_ends_without_a_traceback(
    folder: Path, verb: str, redirection: str, code: int, error: str
) -> None:
    done = _shell(f"{_python('-m', 'orchestrator')} {verb} {redirection}", folder)
    assert done.returncode == code
    assert done.stderr == error


def test_shards_are_written_without_a_reader_of_progress(folder: Path) -> None:
    command = _python(
        "-m", "pipelines.imagenet.shard", "images", "shards", "--images-per-shard", "1"
    )
    done = _shell(f"{command} {LEAVES}", folder)
    assert done.returncode == 0
    assert done.stderr == ""
    assert (folder / "shards" / "index.json").exists()
