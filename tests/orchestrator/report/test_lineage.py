"""What a report says about the code, the hardware and the cost of a stage."""

from __future__ import annotations

from typing import Any

from orchestrator.artifact import Artifact, File, Manifest
from orchestrator.report.lineage import code_text, cost_text, hardware_text, make_lineage
from orchestrator.report.markdown import make_markdown
from orchestrator.report.notes import Origin

MACHINE = {"cpu": "AMD EPYC 7R13", "cores": 16, "memory_gib": 128.2, "gpus": ["H200"] * 8}
PROVENANCE: dict[str, Any] = {
    "run_id": "r",
    "host": "a",
    "hosts": ["a", "a", "b"],
    "machines": [{"host": "a", **MACHINE}, {"host": "b", **MACHINE}],
    "driver": "580.65",
    "nccl": "2.28.9",
    "attempts": [{}, {}],
    "cost": {"gpu_hours": 4.56, "core_hours": 36.4},
    "energy": {"kwh": 1.234, "num_metered": 2, "num_workers": 3},
    "submission_id": "raysubmit_1",
    "packages": {"numpy": "2.1", "aaa": "1", "torch": "2.11.0", "zzz": "9"},
}


def _manifest(**provenance: Any) -> Manifest:
    artifacts = {
        name: Artifact(files=(File(path="x", sha256=digit * 64, size=1),))
        for name, digit in (("checkpoint", "1"), ("code_patch", "2"), ("job_file", "3"))
    }
    return Manifest(
        key="a" * 64,
        stage="only",
        kind="count",
        recipe={},
        params={},
        artifacts=artifacts,
        metrics=(),
        provenance=provenance,
    )


def test_hardware_and_cost_are_shown_in_words() -> None:
    assert hardware_text(PROVENANCE) == (
        "2 x AMD EPYC 7R13, 16 cores, 128 GiB, 8 x H200; driver 580.65, NCCL 2.28.9"
    )
    assert cost_text(PROVENANCE) == (
        "2 attempts, 4.56 GPU-hours, 36.4 core-hours, 1.23 kWh on GPUs of 2 of 3 workers"
    )


def test_published_files_are_only_those_of_outputs() -> None:
    lineage = make_lineage(_manifest(**PROVENANCE), stage_of_key={}, command="run")
    facts = dict(lineage.facts)
    assert lineage.files == (("checkpoint/x", "1" * 64),)
    assert facts["machines"] == "a, b"
    assert facts["packages"] == "torch 2.11.0, numpy 2.1, and 2 more in the manifest"
    assert facts["patch of local changes"] == f"sha256 {'2' * 64}"
    assert facts["job file"] == f"sha256 {'3' * 64}"
    assert facts["Ray job"] == "raysubmit_1"


def test_an_older_manifest_has_no_hardware_and_no_cost() -> None:
    lineage = make_lineage(_manifest(run_id="r", host="a"), stage_of_key={}, command="run")
    assert not {"hardware", "cost", "machines", "Ray job"} & dict(lineage.facts).keys()


def test_code_with_local_changes_names_its_patch() -> None:
    code: dict[str, Any] = {"sha256": "e" * 64, "commit": "f" * 40, "is_dirty": True}
    patch: dict[str, Any] = {"sha256": "d" * 64, "size": 9, "left_out": None}
    digest = "source files sha256 eeeeeeeeeeee"
    assert code_text(code) == f"commit ffffffffffff (with local changes), {digest}"
    unknown = {**code, "is_dirty": None}
    assert code_text(unknown) == f"commit ffffffffffff (local changes unknown), {digest}"
    assert code_text({**code, "patch": patch}) == (
        f"commit ffffffffffff (with local changes, patch sha256 dddddddddddd), {digest}"
    )
    left_out = {**patch, "left_out": "it is larger than 5 MB"}
    assert "dddddddddddd not kept: it is larger than 5 MB)" in code_text(
        {**code, "patch": left_out}
    )


def test_markdown_lists_code_hardware_and_cost_of_each_stage() -> None:
    lineage = make_lineage(_manifest(**PROVENANCE), stage_of_key={}, command="run")
    origin = Origin(store="./store", run_id="r", command="run", changes={})
    text = make_markdown("job", (), {}, origin, lineages={"only": lineage})
    assert "## Where the numbers come from\n\n- only: code not recorded; hardware: 2 x AMD" in text
    assert "cost: 2 attempts, 4.56 GPU-hours" in text
    assert "Where the numbers" not in make_markdown("job", (), {}, origin)
