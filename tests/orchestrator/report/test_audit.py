"""The recipe audit in the report: one line per stage in text formats, each param in JSON."""

from __future__ import annotations

from pathlib import Path

from orchestrator.artifact import Manifest
from orchestrator.recipe import recipe_audit
from orchestrator.report import Origin, audit_lines, audits_of, make_markdown, report_json
from orchestrator.spec import Job
from tests.orchestrator.report.paper import load_paper, manifests

MEASURE = "  measure: {kind: evaluate, of: pretrain, overrides: {crop_pct: 1.0}}\n"
ORIGIN = Origin("/store", None, "orchestrator run job.yaml", {})


def _audited(folder: Path, *overrides: str) -> tuple[Job, dict[str, Manifest]]:
    """Return a job and manifests of pretraining, scenes and an evaluation, but not of the
    search."""
    job = load_paper(folder, *overrides, more=MEASURE)
    done = manifests()
    done["measure"] = done["pretrain"].model_copy(update={"stage": "measure"})
    return job, {
        name: manifest.model_copy(update={"recipe_audit": recipe_audit(job.stages[name].params)})
        for name, manifest in done.items()
    }


def test_each_finished_stage_has_a_line_with_its_deviations(tmp_path: Path) -> None:
    job, done = _audited(tmp_path, "pretrain.epochs=10", "pretrain.batch_size=32")
    assert audit_lines(audits_of(job, done)) == (
        "pretrain: epochs 10 instead of 300; batch_size 32 instead of 1024",
        "scenes: as in the reference recipe",
        "measure: crop_pct 1.0 instead of 0.875",
    )


def test_evaluation_without_deviations_has_no_line(tmp_path: Path) -> None:
    job, done = _audited(tmp_path)
    done["measure"] = done["measure"].model_copy(
        update={"recipe_audit": done["pretrain"].recipe_audit}
    )
    assert audits_of(job, done).keys() == {"pretrain", "scenes"}


def test_manifest_older_than_audits_has_no_line(tmp_path: Path) -> None:
    assert audits_of(load_paper(tmp_path), manifests()) == {}


def test_markdown_has_a_section_for_the_audit(tmp_path: Path) -> None:
    job, done = _audited(tmp_path)
    text = make_markdown("paper", (), audits_of(job, done), ORIGIN)
    assert (
        "\n## Recipe audit\n\n- pretrain: as in the reference recipe\n- scenes: as in the reference"
        in text
    )
    assert "audit" not in make_markdown("paper", (), {}, ORIGIN)


def test_json_has_each_param_with_both_values(tmp_path: Path) -> None:
    job, done = _audited(tmp_path)
    assert report_json("paper", (), audits_of(job, done))["recipe_audit"] == {
        "pretrain": {},
        "scenes": {},
        "measure": {"crop_pct": {"used": 1.0, "reference": 0.875}},
    }
