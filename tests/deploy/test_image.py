"""deploy/Dockerfile and .dockerignore. The image itself is not built here."""

from __future__ import annotations

import re
import subprocess
import tomllib

from tests.deploy.files import DEPLOY, ROOT

DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
COPIED = [
    source
    for line in re.findall(r"^COPY (.+)$", DOCKERFILE, re.MULTILINE)
    for source in line.split()[:-1]
]


def test_hadolint_accepts_the_dockerfile() -> None:
    done = subprocess.run(
        ["hadolint", "--no-color", DEPLOY / "Dockerfile"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_only_what_the_image_copies_is_sent_to_docker() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert lines[1] == "*"
    allowed = {line.removeprefix("!").rstrip("/") for line in lines if line.startswith("!")}
    assert allowed == set(COPIED)
    assert [name for name in COPIED if not (ROOT / name).exists()] == []


def test_image_has_every_package_of_the_code() -> None:
    find = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    packages = {pattern.rstrip("*") for pattern in find["find"]["include"]}
    assert packages <= set(COPIED)


def test_code_is_copied_after_the_packages_are_installed() -> None:
    installed = DOCKERFILE.index("--constraint requirements.lock")
    assert DOCKERFILE.index("COPY pyproject.toml requirements.lock") < installed
    assert DOCKERFILE.index("COPY orchestrator") > installed


def test_lock_pins_each_package_that_the_image_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lock = (ROOT / "requirements.lock").read_text().replace(".", "-")
    locked = {line.partition("==")[0] for line in lock.splitlines()}
    names = [re.split(r"[\[<>=]", text)[0] for text in project["dependencies"]]
    assert {name for name in names if name.lower().replace(".", "-") not in locked} == set()


def test_image_does_not_run_as_root() -> None:
    (*_, user) = re.findall(r"^USER (\d+):\d+$", DOCKERFILE, re.MULTILINE)
    assert int(user) > 0


def test_image_has_a_python_that_the_project_supports() -> None:
    # Ubuntu 24.04 has Python 3.12.
    assert re.search(r"^FROM \S+-ubuntu24\.04$", DOCKERFILE, re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11,<3.13"
