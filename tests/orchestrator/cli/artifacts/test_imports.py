"""The verbs that only read a store start without torch, Ray and OpenMMLab."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.orchestrator.artifacts.published import publish_job

SCRIPT = """
import io, sys
for name in ("torch", "ray", "mmengine", "mmdet", "timm"):
    sys.modules[name] = None  # importing it raises ImportError
from orchestrator.cli.arguments import parse_arguments
from orchestrator.cli.artifacts import artifacts
for line in sys.stdin.read().splitlines():
    assert artifacts(parse_arguments(["artifacts", *line.split()]), io.StringIO()) == 0, line
"""
LINES = """\
ls job.yaml
get job.yaml pretrain.log out
verify job.yaml --deep
lineage job.yaml measured
pin job.yaml pretrain
unpin job.yaml pretrain
"""


def test_the_verbs_import_neither_torch_nor_ray(tmp_path: Path) -> None:
    publish_job(tmp_path, str(tmp_path / "store"))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=tmp_path,
        input=LINES,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
