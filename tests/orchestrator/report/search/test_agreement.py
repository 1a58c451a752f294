"""The agreement of short trials and full training: which stages count, and Kendall's tau."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from pydantic import JsonValue

from orchestrator.artifact import Manifest, Metric
from orchestrator.report.search.agreement import Agreement, agreement_of, kendall_tau
from orchestrator.spec import Job
from orchestrator.trials import Trials
from tests.orchestrator.report.search.searched import make_trial, make_trials
from tests.orchestrator.spec.kinds import load_text

JOB = """
name: many
store: ./store
stages:
  search:
    kind: tune
    of: pretrain
    space: {lr: {loguniform: [1e-4, 1e-1]}}
    num_trials: 4
    overrides: {epochs: 2}
  pretrain: {kind: train, data: /data, params_from: search.best_params}
  full:
    kind: train
    data: /data
    matrix: {lr: [0.001, 0.002], seed: [0, 1]}
  worse: {kind: train, data: /data, lr: 0.004}
  other: {kind: train, data: /data, lr: 0.008, flip: false}
  elsewhere: {kind: train, data: /elsewhere, lr: 0.008}
"""


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return load_text(JOB, tmp_path)


def _trials(**values: float) -> Trials:
    """Make trials from values keyed by the last digit of their lr, such as lr1 for 0.001."""
    return make_trials(
        *(
            make_trial(number, {"lr": int(lr[2:]) / 1000}, value)
            for number, (lr, value) in _numbered(values)
        )
    )


def _numbered(values: Mapping[str, float]) -> list[tuple[int, tuple[str, float]]]:
    return list(enumerate(values.items(), 1))


def _done(
    job: Job, values: Mapping[str, float], searched: Mapping[str, JsonValue]
) -> dict[str, Manifest]:
    """Return manifests of stages with these `values`. `pretrain` ran with the `searched` params."""
    return {
        name: _manifest(job, name, value, searched if name == "pretrain" else {})
        for name, value in values.items()
    }


def _manifest(job: Job, name: str, value: float, searched: Mapping[str, JsonValue]) -> Manifest:
    return Manifest(
        key="a" * 64,
        stage=name,
        kind="train",
        recipe={},
        params=job.stages[name].params.overlay(searched).model_dump(mode="json"),
        artifacts={},
        metrics=(
            Metric(name="top1", value=value, num_samples=10),
            Metric(name="top5", value=99, num_samples=10),
        ),
        provenance={},
    )


def test_stages_with_a_trials_params_are_paired(job: Job) -> None:
    manifests = _done(
        job,
        {"pretrain": 80, "full/0_001-0": 70, "full/0_001-1": 72, "full/0_002-0": 75, "worse": 60},
        {"lr": 0.008},
    )
    trials = _trials(lr1=50, lr2=52, lr4=55, lr8=58)
    # the order by full training is lr4 60, lr1 71, lr2 75, lr8 80; two of six pairs are reversed
    agreement = agreement_of(job, "search", trials, manifests)
    assert agreement is not None
    assert agreement.kendall_tau == pytest.approx(2 / 6)
    assert agreement.num_trials == 4


def test_stages_that_differ_elsewhere_are_not_paired(job: Job) -> None:
    manifests = _done(
        job, {"full/0_001-0": 70, "full/0_002-0": 75, "other": 60, "elsewhere": 61}, {}
    )
    assert agreement_of(job, "search", _trials(lr1=50, lr2=52, lr8=58), manifests) is None


def test_trials_without_full_training_do_not_count(job: Job) -> None:
    manifests = _done(job, {"full/0_001-0": 70, "full/0_002-0": 75, "worse": 80}, {})
    agreement = agreement_of(job, "search", _trials(lr1=50, lr2=52, lr4=53, lr9=1), manifests)
    assert agreement == Agreement(kendall_tau=1, num_trials=3)


def test_manifest_with_params_of_an_old_release_is_not_paired(job: Job) -> None:
    manifests = _done(job, {"full/0_001-0": 70, "full/0_002-0": 75, "worse": 80}, {})
    manifests["worse"] = manifests["worse"].model_copy(update={"params": {"gone": 1}})
    assert agreement_of(job, "search", _trials(lr1=50, lr2=52, lr4=53), manifests) is None


@pytest.mark.parametrize(
    ("first", "second", "tau"),
    [
        ([1, 2, 3, 4], [10, 20, 30, 40], 1),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1),
        ([1, 2, 3, 4], [2, 1, 4, 3], 1 / 3),
        (
            [12, 2, 1, 12, 2],
            [1, 4, 7, 1, 0],
            -0.47140452079103173,
        ),  # the example of scipy.stats.kendalltau
        ([1, 1, 1], [1, 2, 3], None),
    ],
)
def test_kendalls_tau_is_tau_b(first: list[float], second: list[float], tau: float | None) -> None:
    assert kendall_tau(first, second) == (None if tau is None else pytest.approx(tau))
