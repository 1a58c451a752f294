"""Every command of deploy/ and docs/cluster.md exists, with its options, and so does every
environment variable that they set."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import click
import pytest
import ray
from ray.scripts.scripts import cli as ray_cli

from orchestrator.cli.arguments import parse_arguments
from tests.deploy.files import DEPLOY, ROOT, load_yaml

PAGE = re.sub(r" \\\n +", " ", (ROOT / "docs" / "cluster.md").read_text())
TYPED = [
    line.removeprefix("$ ")
    for block in re.findall(r"^```console\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    for line in block.splitlines()
    if line.startswith("$ ")
]
JOB = load_yaml((DEPLOY / "kuberay" / "ray-job.yaml").read_text())
CLUSTER = load_yaml((DEPLOY / "aws.yaml").read_text())
SLURM = re.sub(
    r"\$(?:\(\(.*?\)\)|\w+|@)", "1", (DEPLOY / "slurm.sh").read_text().replace("\\\n", " ")
)
"""The script with 1 for each variable, and without breaks in its commands."""
LINES = [
    *TYPED,
    JOB["spec"]["entrypoint"],
    *CLUSTER["head_start_ray_commands"],
    *CLUSTER["worker_start_ray_commands"],
    *(
        line.strip().rstrip("'")
        for line in SLURM.splitlines()
        if re.match(" *(exec|python) ", line)
    ),
]


def _commands(program: str) -> list[list[str]]:
    """The arguments of each call of a program."""
    call = re.compile(rf"(?:^|.* -- )(?:\w+=\S+ |exec |python -m )*{program} ([^|>&]+)")
    return [shlex.split(found[1]) for found in map(call.match, LINES) if found]


@pytest.mark.parametrize("arguments", _commands("orchestrator"), ids=" ".join)
def test_orchestrator_has_the_command(arguments: list[str]) -> None:
    parse_arguments(arguments)


@pytest.mark.parametrize("arguments", _commands("ray"), ids=" ".join)
def test_ray_has_the_command(arguments: list[str]) -> None:
    own = arguments
    command: click.Command = ray_cli
    while isinstance(command, click.Group):
        name, *own = own
        command = command.commands[name]
    command.make_context(command.name, own)


def test_commands_of_every_file_are_found() -> None:
    assert len(_commands("ray")) >= 16
    assert len(_commands("orchestrator")) >= 8


def test_head_of_a_rayjob_is_started_with_flags_of_ray() -> None:
    start = ray_cli.commands["start"]
    flags = {flag for parameter in start.params for flag in parameter.opts}
    given = JOB["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]
    assert {f"--{name}" for name in given} <= flags


def test_the_entrypoint_of_a_rayjob_reads_the_file_that_is_mounted() -> None:
    (head,) = JOB["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in head["volumeMounts"]}
    assert f"{mounts['job']}/job.yaml" in JOB["spec"]["entrypoint"].split()
    assert "--from-file=job.yaml=" in PAGE


VARIABLES = sorted(
    {
        name
        for text in (PAGE, *(path.read_text() for path in DEPLOY.rglob("*") if path.is_file()))
        for name in re.findall(r"\b(?:RAY|ORCHESTRATOR)_[A-Z][A-Z_]+\b", text)
    }
)


@pytest.mark.parametrize("name", VARIABLES)
def test_ray_or_the_orchestrator_reads_the_variable(name: str) -> None:
    folders = [ROOT / "orchestrator", Path(ray.__file__).parent]
    command = ["grep", "-rlqF", "--include=*.py", "--include=_raylet.so", name]
    assert subprocess.run([*command, *map(str, folders)], check=False).returncode == 0
