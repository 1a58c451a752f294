"""The kind `tune`: whether its space and overrides fit the params of the template."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.artifact import Ref
from orchestrator.contract import Role
from orchestrator.errors import SpecError
from orchestrator.spec import Distribution, TuneParams, load_job, template_params
from tests.orchestrator.spec.kinds import GOOD, KINDS, TRAIN, Network, load_text
from tests.orchestrator.spec.yaml.loader.test_loader import HEAD, faults_of

# the fields of a search over HEAD's stage, from line 8 on
SEARCH = f"{HEAD}  search: {{kind: tune, of: pretrain, num_trials: 2,\n"


def search_faults(fields: str, folder: Path) -> list[str]:
    return faults_of(f"{SEARCH}{fields}}}\n", folder)


@pytest.mark.parametrize(
    ("space", "faults"),
    [
        ("{}", ["8:8: stages.search.space: must not be empty"]),
        (
            "{lr: {unifrom: [0, 1]}}",
            ["8:14: stages.search.space.lr.unifrom: unknown field, did you mean 'uniform'?"],
        ),
        ("{lr: 3}", ["8:13: stages.search.space.lr: must be a mapping, not 3"]),
        (
            "{lr: {}}",
            [
                (
                    "8:9: stages.search.space.lr: must be exactly one of uniform, loguniform, "
                    "quniform, randint, choice"
                )
            ],
        ),
        (
            "{lr: {uniform: [0.1, 1], choice: [0.1]}}",
            [
                (
                    "8:9: stages.search.space.lr: must be exactly one of uniform, loguniform, "
                    "quniform, randint, choice"
                )
            ],
        ),
        (
            "{lr: {uniform: [1]}}",
            ["8:14: stages.search.space.lr.uniform.1: has too few items: [1]"],
        ),
        (
            "{lr: {uniform: [2, 1]}}",
            [
                (
                    "8:9: stages.search.space.lr: the low end of uniform must be less than the "
                    "high end, not [2.0, 1.0]"
                )
            ],
        ),
        (
            "{lr: {loguniform: [0, 1]}}",
            [
                (
                    "8:9: stages.search.space.lr: both ends of loguniform must be greater than 0, "
                    "not "
                    "[0.0, 1.0]"
                )
            ],
        ),
        (
            "{lr: {quniform: [0.1, 0.95, 0.1]}}",
            [
                (
                    "8:9: stages.search.space.lr: both ends of quniform must be multiples of its "
                    "step, not [0.1, 0.95, 0.1]"
                )
            ],
        ),
        (
            "{lr: {quniform: [0, 1, 0]}}",
            ["8:9: stages.search.space.lr: the step of quniform must be greater than 0, not 0"],
        ),
        (
            "{lr: {uniform: [0, .inf]}}",
            ["8:27: stages.search.space.lr.uniform.1: must be a finite number, not .inf"],
        ),
        ("{flip: {choice: []}}", ["8:24: stages.search.space.flip.choice: must not be empty"]),
        (
            "{epocs: {randint: [1, 3]}}",
            ["8:9: stages.search.space.epocs: unknown field, did you mean 'epochs'?"],
        ),
        (
            "{lr: {uniform: [0, 3]}}",
            [
                "8:24: stages.search.space.lr: must be greater than 0, not 0.0",
                "8:27: stages.search.space.lr: must be at most 1, not 3.0",
            ],
        ),
        (
            "{epochs: {randint: [0, 9]}}",
            ["8:28: stages.search.space.epochs: must be at least 1, not 0"],
        ),
        (
            "{epochs: {quniform: [1, 3, 1]}}",
            [
                "8:29: stages.search.space.epochs: must be a whole number, not 1.0",
                "8:32: stages.search.space.epochs: must be a whole number, not 3.0",
            ],
        ),
        (
            "{lr: {choice: [0.1, fast]}}",
            ["8:28: stages.search.space.lr: must be a number, not 'fast'"],
        ),
        (
            "{model.embed_dim: {choice: [8]}}",
            [
                "8:9: stages.search.space.model.embed_dim: cannot be set: its parent is "
                "'cat_tiny', not a mapping; set the parent as a whole"
            ],
        ),
        (
            "{modle.embed_dim: {choice: [8]}}",
            [
                (
                    "8:9: stages.search.space.modle.embed_dim: unknown field 'modle', did you "
                    "mean 'model'?"
                )
            ],
        ),
        (
            "{data: {choice: [a]}}",
            ["8:9: stages.search.space.data: is data or an input, which cannot be searched"],
        ),
        (
            "{warmup_epochs: {choice: [3, 30]}}",
            [
                (
                    "8:37: stages.search.space.warmup_epochs: warmup_epochs (30) must be at most "
                    "epochs (10)"
                )
            ],
        ),
    ],
)
def test_space_that_does_not_fit_is_refused(space: str, faults: list[str], tmp_path: Path) -> None:
    assert search_faults(f"space: {space}", tmp_path) == faults


@pytest.mark.parametrize(
    ("fields", "faults"),
    [
        (
            "overrides: {epoch: 3}",
            ["9:13: stages.search.overrides.epoch: unknown field, did you mean 'epochs'?"],
        ),
        (
            "overrides: {epochs: 0}",
            ["9:21: stages.search.overrides.epochs: must be at least 1, not 0"],
        ),
        (
            "overrides: {model: {embed_dim: 0}}",
            ["9:32: stages.search.overrides.model.embed_dim: must be at least 1, not 0"],
        ),
        (
            "overrides: {warmup_epochs: 99}",
            [
                (
                    "9:28: stages.search.overrides.warmup_epochs: warmup_epochs (99) must be at "
                    "most epochs (10)"
                )
            ],
        ),
        (
            "overrides: {data: 'gs://b/x'}",
            ["9:19: stages.search.overrides.data: must be a folder, not 'gs://b/x'"],
        ),
        (
            "metric: top5, overrides: {flip: false}",
            ["9:9: stages.search.metric: unknown metric 'top5', did you mean 'top1'?"],
        ),
        (
            "metric: topp5",
            ["9:9: stages.search.metric: unknown metric 'topp5', did you mean 'top5'?"],
        ),
        (
            "algorithm: {name: optna}",
            [
                "9:19: stages.search.algorithm.name: must be 'optuna', 'random' or 'grid', not "
                "'optna', did you mean 'optuna'?"
            ],
        ),
        (
            "max_concurrent: 0, scheduler: {reduction_factor: 1, grace_period: 0}",
            [
                "9:17: stages.search.max_concurrent: must be at least 1, not 0",
                "9:50: stages.search.scheduler.reduction_factor: must be at least 2, not 1",
                "9:67: stages.search.scheduler.grace_period: must be at least 1, not 0",
            ],
        ),
        (
            "expect: {top5: '> 3'}",
            ["9:10: stages.search.expect.top5: unknown metric, did you mean 'top1'?"],
        ),
    ],
)
def test_search_that_does_not_fit_its_template_is_refused(
    fields: str, faults: list[str], tmp_path: Path
) -> None:
    assert search_faults(f"space: {{lr: {{uniform: [0.1, 1]}}}},\n{fields}", tmp_path) == faults


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        (
            "space: {lr: {choice: [0.1]}}",
            "7:3: stages.search: num_trials is required, unless algorithm is {name: grid}",
        ),
        (
            "space: {lr: {uniform: [0.1, 1]}}, algorithm: {name: grid}",
            (
                "7:50: stages.search.space.lr: a grid needs `choice` for every param, but lr is "
                "uniform; list its values"
            ),
        ),
        (
            "space: {lr: {choice: [0.1]}}, algorithm: {name: grid}, num_trials: 1",
            (
                "7:105: stages.search.num_trials: a grid tries each combination once; remove "
                "num_trials"
            ),
        ),
        (
            "space: {lr: {choice: [0.1]}}, algorithm: {name: grid}, initial: [{lr: 0.1}]",
            "7:102: stages.search.initial: a grid tries each combination once; remove initial",
        ),
    ],
)
def test_search_needs_num_trials_or_a_grid(fields: str, fault: str, tmp_path: Path) -> None:
    assert faults_of(f"{HEAD}  search: {{kind: tune, of: pretrain, {fields}}}\n", tmp_path) == [
        fault
    ]


def test_grid_has_every_combination_of_its_choices(tmp_path: Path) -> None:
    space = "{lr: {choice: [0.1, 0.2]}, flip: {choice: [true, false]}}"
    text = (
        f"{HEAD}  search: {{kind: tune, of: pretrain, space: {space}, algorithm: {{name: grid}}}}\n"
    )
    params = load_text(text, tmp_path).stages["search"].params
    assert params.size == 4
    assert params.points[1] == {"flip": True, "lr": 0.2}


@pytest.mark.parametrize(
    ("of", "fault"),
    [
        ("pretran", "unknown stage 'pretran', did you mean 'pretrain'?"),
        ("search", "search is a search itself; name a stage that trains"),
        ("3", "must be a string, not 3"),
    ],
)
def test_template_must_be_a_stage_that_trains(of: str, fault: str, tmp_path: Path) -> None:
    search = f"  search: {{kind: tune, of: {of}, num_trials: 2, space: {{lr: {{choice: [1]}}}}}}\n"
    assert faults_of(HEAD + search, tmp_path) == [f"7:28: stages.search.of: {fault}"]


def test_template_without_a_metric_is_refused(tmp_path: Path) -> None:
    kinds = {**KINDS, "train": replace(TRAIN, metrics=lambda _: ())}
    (tmp_path / "job.yaml").write_text(f"{SEARCH}space: {{lr: {{choice: [1]}}}}}}\n")
    with pytest.raises(
        SpecError,
        match=r"job\.yaml:7:28: stages\.search\.of: pretrain reports no metric to optimise$",
    ):
        load_job(tmp_path / "job.yaml", kinds=kinds, base_dir=tmp_path)


def test_override_of_an_input_is_refused(tmp_path: Path) -> None:
    search = (
        "  s: {kind: tune, of: segment, num_trials: 1, space: {lr: {choice: [1]}}, overrides: "
        "{teacher: x.report}}"
    )
    (fault,) = faults_of(GOOD + search, tmp_path)
    assert fault.endswith(
        "stages.s.overrides.teacher: is an input; the trials of a search use the inputs of its "
        "template"
    )


def test_stage_without_the_searched_param_is_refused(tmp_path: Path) -> None:
    text = GOOD + (
        "  other: {kind: finetune, backbone: pretrain.checkpoint, data: d, params_from: "
        "search.best_params}\n"
    )
    assert faults_of(text, tmp_path) == [
        "22:80: stages.other.params_from: search searches model.drop_path: "
        "unknown field 'model'; known: backbone, teacher, data, lr"
    ]


def test_searched_values_that_do_not_fit_a_stage_are_a_fault(tmp_path: Path) -> None:
    other = "  other: {kind: train, data: d, params_from: search.best_params}\n"
    search = (
        f"{SEARCH}overrides: {{epochs: 40}}, space: {{warmup_epochs: {{randint: [1, 31]}}}}}}\n"
    )
    (fault,) = faults_of(search + other, tmp_path)
    assert "stages.other.params_from: search searches" in fault
    assert fault.endswith("warmup_epochs (30) must be at most epochs (10)")


def test_every_sample_of_a_space_must_report_the_metric(tmp_path: Path) -> None:
    assert search_faults("metric: top5, space: {flip: {choice: [true, false]}}", tmp_path) == [
        "8:45: stages.search.space.flip: with false, no trial reports the metric top5"
    ]


def test_template_params_include_the_overrides(tmp_path: Path) -> None:
    job = load_text(
        GOOD, tmp_path, "stages.search.overrides={epochs: 2, model.embed_dim: 8, data: small}"
    )
    params = template_params(job, job.stages["search"])
    assert params.epochs == 2
    assert params.model == Network(embed_dim=8, depths=(1, 2))
    assert params.lr == 1e-3
    assert params.data == str(tmp_path / "small")


def test_best_checkpoint_counts_as_one_of_the_searched_kind(tmp_path: Path) -> None:
    consumer = "  other: {kind: finetune, backbone: search.best_checkpoint, data: d}\n"
    job = load_text(GOOD + consumer, tmp_path)
    assert job.stages["other"].inputs["backbone"] == Ref("search", "best_checkpoint")
    searched = (
        GOOD
        + consumer.replace("search.", "tuned.")
        + ("  tuned: {kind: tune, of: segment, num_trials: 1, space: {lr: {choice: [1]}}}\n")
    )
    (fault,) = faults_of(searched, tmp_path)
    assert fault.endswith(
        "needs an output of kind train.checkpoint, but tuned.best_checkpoint is finetune.checkpoint"
    )


def test_trials_use_the_resources_of_the_searched_stage(tmp_path: Path) -> None:
    stages = load_text(GOOD, tmp_path).stages
    assert stages["search"].resources == stages["pretrain"].resources
    assert stages["search"].resources.workers == 2
    own = (
        load_text(GOOD, tmp_path, "stages.search.resources.cpus_per_worker=3")
        .stages["search"]
        .resources
    )
    assert own.workers == 1
    assert own.cpus_per_worker == 3


def test_search_maximises_its_templates_first_metric(tmp_path: Path) -> None:
    assert load_text(GOOD, tmp_path).stages["search"].metrics == ("top1",)
    assert load_text(GOOD, tmp_path, "stages.search.metric=top5").stages["search"].metrics == (
        "top5",
    )


def test_key_of_a_search_hashes_its_space_not_stage_names(tmp_path: Path) -> None:
    params = load_text(GOOD, tmp_path).stages["search"].params
    assert set(TuneParams.fields_with(Role.OUTSIDE_KEY)) == {"of", "overrides", "max_concurrent"}
    assert params.in_key() == {
        "space": {"lr": {"loguniform": [1e-4, 1e-2]}, "model.drop_path": {"choice": [0.0, 0.2]}},
        "num_trials": 3,
        "metric": "top1",
        "mode": "max",
        "algorithm": {"name": "optuna", "seed": None},
        "initial": [],
        "scheduler": {"name": "asha", "grace_period": 1, "reduction_factor": 3},
        "stop": {"hours": None, "no_improvement": None},
    }


@pytest.mark.parametrize(
    ("written", "name", "args", "extremes"),
    [
        ('{"uniform": [0, 1]}', "uniform", (0.0, 1.0), (0.0, 1.0)),
        ('{"quniform": [0.1, 0.7, 0.1]}', "quniform", (0.1, 0.7, 0.1), (0.1, 0.7)),
        ('{"randint": [1, 5]}', "randint", (1, 5), (1, 4)),
        ('{"choice": [1, null, "x"]}', "choice", ([1, None, "x"],), (1, None, "x")),
    ],
)
def test_distribution_has_the_name_and_args_of_ray_tune(
    written: str, name: str, args: tuple[object, ...], extremes: tuple[object, ...]
) -> None:
    distribution = Distribution.model_validate_json(written)
    assert distribution.name == name
    assert distribution.args == args
    assert distribution.extremes == extremes
    assert Distribution.model_validate_json(distribution.model_dump_json()) == distribution


SPACE = (
    "space: {lr: {loguniform: [0.01, 1]}, epochs: {randint: [1, 9]}, flip: {choice: [true, false]}}"
)


@pytest.mark.parametrize(
    ("initial", "faults"),
    [
        ("[{lr: 0.1, epochs: 8, flip: false}, {lr: 1, epochs: 1, flip: true}]", []),
        (
            "[{lr: 0.1, epochs: 8}]",
            ["8:107: stages.search.initial.0: has no value for flip, which is in the space"],
        ),
        (
            "[{lr: 2, epochs: 9, flip: 1}]",
            [
                "8:112: stages.search.initial.0.lr: 2 is outside loguniform [0.01, 1.0]",
                "8:123: stages.search.initial.0.epochs: 9 is outside randint [1, 9]",
                "8:132: stages.search.initial.0.flip: 1 is outside choice [true, false]",
            ],
        ),
        (
            "[{lrr: 1, lr: 0.1, epochs: 1.0, flip: yes}]",
            [
                "8:108: stages.search.initial.0.lrr: is not in the space, did you mean 'lr'?",
                "8:133: stages.search.initial.0.epochs: 1.0 is outside randint [1, 9]",
                "8:144: stages.search.initial.0.flip: 'yes' is outside choice [true, false]",
            ],
        ),
        (
            "[&a {lr: 0.1, epochs: 8, flip: false}, *a, *a]",
            [
                "8:149: stages.search.initial.2: exceeds num_trials 2; remove it or increase "
                "num_trials"
            ],
        ),
    ],
)
def test_initial_points_must_be_points_of_the_space(
    initial: str, faults: list[str], tmp_path: Path
) -> None:
    text = f"{SEARCH}{SPACE}, initial: {initial}}}\n"
    if faults:
        assert faults_of(text, tmp_path) == faults
    else:
        assert len(load_text(text, tmp_path).stages["search"].params.initial) == 2


@pytest.mark.parametrize(
    ("value", "is_held"), [(0.3, True), (0.7, True), (0.1 * 3, True), (0.35, False), (0.0, False)]
)
def test_quniform_contains_only_multiples_of_its_step(value: float, is_held: bool) -> None:
    """Another point could be tried, but a search that had tried it could not be resumed."""
    assert Distribution(quniform=(0.1, 0.7, 0.1)).holds(value) is is_held


def test_search_uses_the_smallest_fitting_worker_count(tmp_path: Path) -> None:
    text = GOOD.replace("num_trials: 3\n", "num_trials: 3\n    resources: {workers: [2, 4]}\n")
    search = load_text(text, tmp_path).stages["search"]
    assert search.resources.workers == 2
    assert search.worker_counts == (2,)


def test_worker_range_that_fits_no_trial_is_a_fault(tmp_path: Path) -> None:
    fields = (
        "    space: {lr: {uniform: [0.1, 0.2]}}, overrides: {epochs: 2}, resources: {workers: [3, "
        "4]}"
    )
    assert search_faults(fields, tmp_path) == [
        (
            "8:86: stages.search.resources.workers: no number of workers in [3, 4] fits the "
            "params of the stage, such as batch_size; change this range, or those params"
        )
    ]
