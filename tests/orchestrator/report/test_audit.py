"""The recipe audit in the report: one line a stage in every format that has lines, each param in
JSON."""

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
    """A job of which pretraining, scenes and an evaluation are done, but not the search."""
    job = load_paper(folder, *overrides, more=MEASURE)
    done = manifests()
    done["measure"] = done["pretrain"].model_copy(update={"stage": "measure"})
    return job, {
        name: manifest.model_copy(update={"recipe_audit": recipe_audit(job.stages[name].params)})
        for name, manifest in done.items()
    }


def test_each_finished_stage_has_a_line_that_says_what_differs(tmp_path: Path) -> None:
    job, done = _audited(tmp_path, "pretrain.epochs=10", "pretrain.batch_size=32")
    assert audit_lines(audits_of(job, done)) == (
        "pretrain: epochs 10 instead of 300; batch_size 32 instead of 1024",
        "scenes: as in the reference recipe",
        "measure: crop_pct 1.0 instead of 0.875",
    )


def test_an_evaluation_with_nothing_of_its_own_has_no_line(tmp_path: Path) -> None:
    job, done = _audited(tmp_path)
    done["measure"] = done["measure"].model_copy(
        update={"recipe_audit": done["pretrain"].recipe_audit}
    )
    assert audits_of(job, done).keys() == {"pretrain", "scenes"}


def test_a_manifest_older_than_audits_has_no_line(tmp_path: Path) -> None:
    assert audits_of(load_paper(tmp_path), manifests()) == {}


def test_markdown_has_the_audit_as_a_section_of_its_own(tmp_path: Path) -> None:
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
