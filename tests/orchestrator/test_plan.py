"""Keys and verdicts: which changes make a stage run again, and which do not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.artifact import Manifest
from orchestrator.errors import DataError
from orchestrator.plan import Plan
from orchestrator.planning import plan_job
from orchestrator.results import load_results
from orchestrator.runs.last_run import load_last_run, write_last_run
from orchestrator.spec import load_job
from orchestrator.store import open_store
from orchestrator.store.publish import publish_manifest
from tests.orchestrator.counting import KINDS

JOB = """
name: counts
store: ./store
stages:
  search:
    kind: tune
    of: first
    space: {gain: {uniform: [1.0, 2.0]}}
    num_trials: 2
    overrides: {epochs: 1}
  first: {kind: count, data: data, params_from: search.best_params, epochs: 3}
  second: {kind: count, data: data, source: first.count}
  other: {kind: count, data: data, gain: 5.0}
"""
ALL = {"search", "first", "second", "other"}

Planner = Callable[..., Plan]


@pytest.fixture
def planner(tmp_path: Path) -> Planner:
    """Return a function that plans JOB with overrides, or another text, against one store."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "content.txt").write_text("content")

    def plan(
        *overrides: str, text: str = JOB, forced: tuple[str, ...] = (), only: tuple[str, ...] = ()
    ) -> Plan:
        (tmp_path / "job.yaml").write_text(text)
        rows = {"counts/five": "count"}
        job = load_job(
            tmp_path / "job.yaml",
            kinds=KINDS,
            published=rows,
            overrides=overrides,
            base_dir=tmp_path,
        )
        return plan_job(job, open_store(job.store), forced=forced, only=only)

    return plan


@pytest.fixture
def done(planner: Planner) -> Planner:
    """The planner, after a run that finished every stage."""
    _finish(planner())
    return planner


def _finish(plan: Plan) -> None:
    store = open_store(plan.job.store)
    write_last_run(store, plan, run_id="r")
    for planned in plan.stages:
        manifest = Manifest(
            key=planned.key,
            stage=planned.name,
            kind="",
            recipe={},
            params={},
            artifacts={},
            metrics=(),
            provenance={},
        )
        if planned.verdict == "RUN":
            publish_manifest(store, manifest)


def _running(plan: Plan) -> set[str]:
    return {planned.name for planned in plan.stages if planned.verdict == "RUN"}


def test_new_job_runs_each_stage_after_those_it_needs(planner: Planner) -> None:
    plan = planner()
    assert _running(plan) == ALL
    order = [planned.name for planned in plan.stages]
    assert order.index("search") < order.index("first") < order.index("second")


def test_unchanged_job_reuses_every_stage(done: Planner) -> None:
    assert _running(done()) == set()


@pytest.mark.parametrize(
    ("override", "runs_again"),
    [
        ("stages.other.gain=6", {"other"}),
        ("stages.second.epochs=4", {"second"}),
        ("stages.first.epochs=4", {"first", "second"}),
        ("stages.search.num_trials=3", {"search", "first", "second"}),
        ("stages.first.seed=3", {"first", "second"}),
        ("stages.search.seed=3", {"search", "first", "second"}),
        ("seed=3", ALL),
        ("stages.first.fails=bug", {"search", "first", "second"}),
    ],
)
def test_change_reruns_its_stage_and_dependent_stages(
    done: Planner, override: str, runs_again: set[str]
) -> None:
    assert _running(done(override)) == runs_again


@pytest.mark.parametrize(
    "override",
    [
        "stages.first.resources.workers=8",
        "stages.first.loader_workers=3",
        "stages.second.resources={cpus_per_worker: 2}",
        "stages.search.max_concurrent=1",
        "stages.other.expect={total: '> 1'}",
        "stages.other.published=counts/five",
        "stages.first.gain=3",
    ],
)
def test_fields_that_cannot_change_a_result_rerun_nothing(done: Planner, override: str) -> None:
    assert _running(done(override)) == set()


def test_comments_and_names_rerun_nothing(done: Planner) -> None:
    assert _running(done(text=JOB.replace("other:", "# a comment\n  renamed:"))) == set()


def test_changed_data_rerun_their_stages(done: Planner, tmp_path: Path) -> None:
    (tmp_path / "data" / "content.txt").write_text("CONTENT")
    plan = done()
    assert _running(plan) == ALL
    assert plan["other"].why == "its data changed"


def test_moved_data_rerun_nothing(done: Planner, tmp_path: Path) -> None:
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    assert _running(done(text=JOB.replace("data: data", "data: elsewhere"))) == set()


def test_force_increases_the_rerun_count_permanently(done: Planner) -> None:
    forced = done(forced=("first",))
    assert _running(forced) == {"first", "second"}
    assert forced["first"].why == "forced, rerun 1"
    assert _running(done()) == set()
    _finish(forced)
    assert done()["first"].rerun == 1
    assert _running(done()) == set()
    assert done(forced=("first",))["first"].rerun == 2


def test_plan_reports_what_changed(done: Planner) -> None:
    plan = done("stages.first.epochs=4")
    assert plan["first"].why == "epochs: 3 -> 4"
    assert plan["second"].why == "its input source changed"
    assert plan["other"].why.startswith("its manifest")


EVALUATED = (
    JOB
    + """
  measured: {kind: evaluate, of: first}
  outside: {kind: evaluate, task: count, data: data, gain: 5.0, checkpoint: ./count.json}
"""
)


def test_evaluation_key_depends_on_model_params_and_file(planner: Planner, tmp_path: Path) -> None:
    (tmp_path / "count.json").write_text("40")
    _finish(planner(text=EVALUATED))
    assert _running(planner(text=EVALUATED)) == set()
    assert _running(planner("stages.measured.resources.workers=2", text=EVALUATED)) == set()
    plan = planner("stages.first.epochs=4", text=EVALUATED)
    assert _running(plan) == {"first", "second", "measured"}
    assert plan["measured"].why == "epochs: 3 -> 4; its input checkpoint changed"
    assert _running(planner("stages.measured.overrides={epochs: 9}", text=EVALUATED)) == {
        "measured"
    }
    (tmp_path / "count.json").write_text("41")
    assert _running(planner(text=EVALUATED)) == {"outside"}


def test_missing_data_are_reported_with_their_stage(planner: Planner) -> None:
    with pytest.raises(DataError, match=r"stages\.other: .*nowhere/content\.txt: cannot be read"):
        planner("stages.other.data=nowhere")


NO_DATA = "stages.other.data=nowhere"


def test_partial_plan_reads_only_the_data_of_its_stages(planner: Planner) -> None:
    whole, part = planner(), planner(NO_DATA, only=("first",))
    assert [planned.name for planned in part.stages] == ["search", "first"]
    assert [planned.key for planned in part.stages] == [whole["search"].key, whole["first"].key]
    with pytest.raises(DataError, match=r"stages\.other: .*nowhere/content\.txt: cannot be read"):
        planner(NO_DATA, only=("first", "other"))


def test_only_accepts_a_whole_matrix_or_one_cell(planner: Planner) -> None:
    text = JOB + "  grid: {kind: count, data: data, matrix: {gain: [1.0, 2.0]}}\n"
    part = planner(NO_DATA, text=text, only=("grid/1_0",))
    assert [planned.name for planned in part.stages] == ["grid/1_0"]
    assert planner(text=text)["grid/1_0"].key == part["grid/1_0"].key


def test_partial_run_keeps_the_records_of_other_stages(done: Planner) -> None:
    _finish(done(forced=("other",)))
    _finish(done(NO_DATA, "stages.other.gain=6", "stages.second.epochs=4", only=("second",)))
    plan = done()
    assert _running(plan) == set()
    assert plan["other"].rerun == 1
    results = load_results(plan.job, open_store(plan.job.store), kinds=KINDS)
    assert set(results.manifests) == ALL
    assert results.job.stages["other"].params.gain == 5.0
    assert results.job.stages["second"].params.epochs == 4
    assert results.changes == {"second": "epochs: 4 -> 3"}


def test_first_partial_run_records_only_its_stages(planner: Planner) -> None:
    part = planner(NO_DATA, only=("first",))
    _finish(part)
    store = open_store(part.job.store)
    last = load_last_run(store, "counts")
    assert last is not None
    assert set(last.stages) == {"search", "first"}
    assert set(load_results(part.job, store, kinds=KINDS).manifests) == {"search", "first"}
    assert _running(planner()) == {"second", "other"}


def test_report_omits_results_whose_inputs_were_replaced(done: Planner) -> None:
    _finish(done("stages.first.epochs=4", only=("first",)))
    job = done().job
    results = load_results(job, open_store(job.store), kinds=KINDS)
    assert set(results.manifests) == ALL - {"second"}
    assert _running(done()) == set()


def test_plan_json_has_the_documented_fields(planner: Planner) -> None:
    document = planner().to_json()
    assert document["job"] == "counts"
    stages = document["stages"]
    assert isinstance(stages, list)
    assert [set(stage) for stage in stages if isinstance(stage, dict)] == [
        {"name", "kind", "key", "verdict", "why", "data_fingerprint", "needs"}
    ] * 4


def test_report_lists_changes_since_the_last_run(done: Planner, tmp_path: Path) -> None:
    held = ("stages.other.expect={total: '> 1'}", "stages.other.published=counts/five")
    job = done("stages.first.epochs=4", *held).job
    (tmp_path / "data").rename(tmp_path / "gone")
    results = load_results(job, open_store(job.store), kinds=KINDS)
    assert set(results.manifests) == ALL
    assert results.job.stages["first"].params.epochs == 3
    assert str(results.job.stages["other"].expect["total"]) == "> 1"
    assert results.job.stages["other"].published == "counts/five"
    assert results.changes == {"first": "epochs: 3 -> 4", "second": "its input source changed"}
