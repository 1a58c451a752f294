"""The top of the page: verdict, warnings, and what it cost."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from orchestrator.artifact import canonical_json
from orchestrator.numbers import count_text, duration, hours_text
from orchestrator.report.cells import CellVerdict
from orchestrator.report.content import ReportContent
from orchestrator.report.lineage import time_text
from orchestrator.report.page.stage import StageView
from orchestrator.spec import Resources

TROUBLES = {
    "failed": "failed",
    "blocked": "did not run, because it needs a stage that failed or was cancelled",
    "cancelled": "was cancelled; run the same command again, and it resumes",
    "interrupted": "was interrupted; run the same command again, and it resumes",
    "lost": "was running when its driver was last heard of; run the same command again",
}


UNFINISHED = (*TROUBLES, "running", "waiting")


@dataclass(frozen=True)
class Summary:
    """The top of the page."""

    verdict: str
    """`met`, `missed`, `incomplete`, `failed` or `not run`."""
    sentence: str
    facts: tuple[tuple[str, str], ...]
    warnings: tuple[tuple[str, str], ...]
    """Each with the anchor that it leads to."""
    pending: tuple[tuple[str, str], ...]
    """Stages that have not run yet, in the same form."""


def make_summary(content: ReportContent, stages: list[StageView]) -> Summary:
    """What became of the job, in a word, a sentence and a few facts."""
    warnings = [
        (f"{stage.name} {TROUBLES[stage.state]}{_cause(stage)}", stage.anchor)
        for stage in stages
        if stage.state in TROUBLES
    ]
    pending = tuple(
        (f"{stage.name} has not run yet", stage.anchor)
        for stage in stages
        if stage.lineage is None and stage.state == "waiting"
    )
    if content.run_error:
        warnings.insert(0, (f"the last run ended early: {content.run_error}", "stages"))
    expected = [cell for cell in content.cells if cell.expected is not None]
    num_met = sum(cell.verdict is CellVerdict.PASS for cell in expected)
    num_missed = sum(cell.verdict is CellVerdict.FAIL for cell in expected)
    num_open = len(expected) - num_met - num_missed
    counts = f"{num_met} of {len(expected)} expectations met"
    counts += f", {num_missed} missed" if num_missed else ""
    counts += f", {num_open} not run" if num_open else ""
    verdicts = {
        "failed": any(stage.state == "failed" for stage in stages),
        "not run": not content.manifests,
        "missed": num_missed > 0,
        "incomplete": bool(warnings or pending) or num_open > 0,
        "met": True,
    }
    verdict = next(verdict for verdict, holds in verdicts.items() if holds)
    num_in = Counter(stage.state for stage in stages)
    unfinished = [f"{num_in[state]} {state}" for state in UNFINISHED if num_in[state]]
    sentence = (
        f"{', '.join(unfinished)} of {count_text(len(stages), 'stage')}; {counts}"
        if unfinished
        else counts
    )
    return Summary(verdict, sentence, tuple(_facts(content, stages)), tuple(warnings), pending)


def _cause(stage: StageView) -> str:
    """The first line of the stage's error, after a colon."""
    return f": {stage.error.splitlines()[0]}" if stage.error else ""


def _facts(content: ReportContent, stages: list[StageView]) -> list[tuple[str, str]]:
    runs = content.histories.runs
    facts: list[tuple[str, str]] = []
    if runs:
        last = runs[-1]
        facts.append(("last run", time_text(last.began_at_s)))
        facts.append(("last run took", duration(last.ended_at_s - last.began_at_s)))
        if len(runs) > 1:
            wall_s = sum(run.ended_at_s - run.began_at_s for run in runs)
            facts.append(("runs", f"{len(runs)}, {duration(wall_s)} in all"))
    gpu_hours, core_hours = _hours(content, stages)
    if gpu_hours:
        facts.append(("GPU-hours", hours_text(gpu_hours)))
    if core_hours:
        facts.append(("core-hours", hours_text(core_hours)))
    codes = {stage.lineage.code.partition(", ")[0] for stage in stages if stage.lineage}
    if codes:
        facts.append(("code", codes.pop() if len(codes) == 1 else f"{len(codes)} versions"))
    num_done = sum(stage.lineage is not None for stage in stages)
    facts.append(("stages", f"{num_done} of {len(stages)} done"))
    return facts


def _hours(content: ReportContent, stages: list[StageView]) -> tuple[float, float]:
    """GPU-hours and core-hours of all stages together, lost attempts included."""
    gpu_hours = core_hours = 0.0
    for stage in stages:
        if stage.took_s is None or content.job.stages[stage.name].search is not None:
            continue
        gpus, cores = _reserved(content, stage.name)
        gpu_hours += stage.took_s / 3600 * gpus
        core_hours += stage.took_s / 3600 * cores
    for search in content.searches:
        gpu_hours += search.summary.spent.gpu
        core_hours += search.summary.spent.core
    return gpu_hours, core_hours


def _reserved(content: ReportContent, name: str) -> tuple[float, float]:
    """GPUs and cores that the stage had: as its manifest says, or else as the job says."""
    resources = content.job.stages[name].resources
    workers = resources.worker_range[0]
    provenance = content.manifests[name].provenance if name in content.manifests else {}
    if isinstance(recorded := provenance.get("resources"), dict):
        resources = Resources.model_validate_json(canonical_json(recorded))
    if isinstance(recorded := provenance.get("workers"), int):
        workers = recorded
    return workers * resources.gpus_per_worker, float(workers * resources.cpus_per_worker)
