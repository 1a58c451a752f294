"""Jobs side by side: differences to the first one, means over seeds, and what is not the same."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from pydantic import JsonValue

from orchestrator.artifact import Manifest, Metric
from orchestrator.report.compare import Comparison, Difference, Measured, compare


def manifest(
    stage: str,
    top1: float,
    *,
    seed: int = 0,
    commit: str | None = None,
    **params: JsonValue,
) -> Manifest:
    code: Mapping[str, JsonValue] = {"sha256": "0" * 64, "commit": commit, "is_dirty": False}
    return Manifest(
        key="a" * 64,
        stage=stage,
        kind="pretrain",
        recipe={"kind": "pretrain", "params": params, "seed": seed, "data": "d" * 64},
        params=params,
        artifacts={},
        metrics=(Metric(name="top1", value=top1, num_samples=100),),
        provenance={"code": dict(code)} if commit else {},
    )


def of_jobs(*jobs: list[Manifest]) -> Comparison:
    named = [
        (f"job{number}", {one.stage: one for one in manifests})
        for number, manifests in enumerate(jobs)
    ]
    return compare(named)


def test_values_are_next_to_each_other_with_differences() -> None:
    found = of_jobs([manifest("train", 80.0)], [manifest("train", 81.5)], [])
    (row,) = found.metrics
    assert (row.stage, row.metric, row.unit) == ("train", "top1", "%")
    assert row.values == (Measured(80.0), Measured(81.5), None)
    assert row.deltas == (0.0, 1.5, None)


def test_params_code_and_seed_that_differ_are_listed() -> None:
    found = of_jobs(
        [manifest("train", 80.0, lr=0.1, epochs=3, commit="a" * 40)],
        [manifest("train", 80.0, lr=0.2, epochs=3, commit="b" * 40, seed=1)],
    )
    assert [one.what for one in found.differences] == ["lr", "seed", "code"]
    assert found.differences[0] == Difference("train", "lr", ("0.1", "0.2"))


def test_equal_jobs_have_no_differences() -> None:
    assert (
        of_jobs([manifest("train", 80.0, lr=0.1)], [manifest("train", 80.0, lr=0.1)]).differences
        == ()
    )


def test_a_stage_of_one_job_has_no_differences() -> None:
    found = of_jobs([manifest("train", 80.0, lr=0.1)], [manifest("other", 80.0, lr=0.2)])
    assert found.differences == ()
    assert len(found.metrics) == 2


def test_cells_that_differ_only_in_seed_have_mean_and_deviation() -> None:
    seeds = [manifest(f"train/{seed}", 80.0 + seed, seed=seed, lr=0.1) for seed in (0, 1, 2)]
    found = of_jobs(seeds, [])
    row = found.metrics[-1]
    assert row.stage == "train/*"
    assert row.values[0] == Measured(81.0, 1.0, 3)
    assert row.values[0].text == "81.00 ± 1.00 (n=3)"


def test_cells_of_other_params_are_other_means() -> None:
    cells = [
        manifest(f"train/{lr}-{seed}", 80.0, seed=seed, lr=lr)
        for lr in (0.1, 0.2)
        for seed in (0, 1)
    ]
    found = of_jobs(cells)
    means = [row.stage for row in found.metrics if row.values[0] and row.values[0].num_seeds > 1]
    assert means == ["train/0.1-0 and alike", "train/0.2-0 and alike"]


@pytest.mark.parametrize("number", [1, 2])
def test_cells_with_other_params_have_no_mean(number: int) -> None:
    cells = [manifest(f"train/{lr}", 80.0, lr=lr) for lr in range(number)]
    assert len(of_jobs(cells).metrics) == number
