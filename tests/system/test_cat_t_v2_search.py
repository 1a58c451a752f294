"""jobs/cat_t_v2_search.yaml: its grid has all regular networks of the published sizes."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cat_model.complexity import Complexity, complexity
from cat_model.config import CONFIGS, CatConfig
from cat_model.model import Cat
from orchestrator.contract import Params
from orchestrator.report.published import published_rows
from orchestrator.spec import Job, load_job
from orchestrator.spec.kinds.tune import TuneParams
from pipelines import KINDS
from pipelines.pretrain.measure import count_params
from pipelines.pretrain.network import make_config
from pipelines.pretrain.params import PretrainParams

ROOT = Path(__file__).parents[2]
JOB = ROOT / "jobs" / "cat_t_v2_search.yaml"
ROWS = published_rows()
PUBLISHED = {"params_m": 36, "flops_g": 3.9}
WIDTHS, DEPTHS, RATIOS = range(48, 129, 8), (3, 4, 12, 4), (2.0, 3.0, 4.0)
"""The networks tried, as listed in the job's header; depths are the maximum of each stage."""


@cache
def job() -> Job:
    return load_job(
        JOB, kinds=KINDS, published={name: row.kind for name, row in ROWS.items()}, base_dir=None
    )


def search() -> TuneParams:
    params = job().stages["search"].params
    assert isinstance(params, TuneParams)
    return params


def trials() -> list[PretrainParams]:
    """The params of each trial of the grid."""
    template: Params = job().stages["pretrain"].params
    drawn = [template.overlay({**search().overrides, **point}) for point in search().points]
    return [params for params in drawn if isinstance(params, PretrainParams)]


def configs() -> list[CatConfig]:
    return [make_config(params) for params in trials()]


def counted(config: CatConfig) -> Complexity:
    return complexity(config, image_hw=(224, 224), num_classes=1000)


def conventions_that_agree(params: int, macs: Mapping[str, int]) -> list[str]:
    """The counting conventions by which the sizes round to the published sizes."""
    if round(params / 1e6) != PUBLISHED["params_m"]:
        return []
    return [name for name, number in macs.items() if round(number / 1e9, 1) == PUBLISHED["flops_g"]]


def test_the_job_searches_for_the_published_sizes() -> None:
    metrics = ROWS["imagenet1k/cat_tiny_v2"].metrics
    assert {name: metrics[name] for name in PUBLISHED} == PUBLISHED


def test_the_job_plans_one_trial_a_network() -> None:
    assert search().size == len(configs()) == len(set(configs())) == 5
    assert {(params.epochs, params.data_fraction) for params in trials()} == {(100, 0.2)}
    command = [
        sys.executable,
        "-m",
        "orchestrator",
        "plan",
        str(JOB),
        "--json",
        "--store",
        "/nowhere",
    ]
    samples = [
        "--set",
        "stages.pretrain.data=sample:digits",
        "--set",
        "stages.pretrain.num_classes=10",
    ]
    done = subprocess.run(
        [*command, *samples], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert [(stage["name"], stage["verdict"], stage["needs"]) for stage in plan["stages"]] == [
        ("search", "RUN", []),
        ("pretrain", "RUN", ["search"]),
    ]


@pytest.mark.parametrize(
    "config", configs(), ids=lambda config: f"{config.embed_dim}-{config.depths}"
)
def test_each_network_has_the_sizes_in_its_comment(config: CatConfig) -> None:
    with torch.device("meta"):
        params = count_params(Cat(config, num_classes=1000))
    macs = counted(config).conventions
    agreeing = conventions_that_agree(params, macs)
    assert agreeing in (["reference", "products"], ["modules"])
    fields = f"{{embed_dim: {config.embed_dim}, depths: {list(config.depths)}"
    comment = re.search(r"# (\S+) M; (\S+) G[^\n]*\n *- " + re.escape(fields), JOB.read_text())
    assert comment is not None
    assert comment.groups() == (f"{params / 1e6:.2f}", f"{macs[agreeing[0]] / 1e9:.3f}")


def test_no_regular_network_with_both_sizes_is_left_out() -> None:
    heads = (1, 2, 4, 8)  # these divide every width
    found = {
        config
        for width, ratio in itertools.product(WIDTHS, RATIOS)
        for config in _fitting(width, ratio, heads)
    }
    assert found == {replace(config, num_heads=heads) for config in configs()}


def _fitting(width: int, ratio: float, heads: tuple[int, ...]) -> Iterator[CatConfig]:
    """The networks of this width that have both sizes.

    Every group of a stage adds the same number of parameters and multiply-adds.
    """
    least = replace(
        CONFIGS["cat_tiny"], embed_dim=width, depths=(1, 1, 1, 1), num_heads=heads, mlp_ratio=ratio
    )
    deeper = [
        replace(least, depths=tuple(1 + int(stage == other) for other in range(4)))
        for stage in range(4)
    ]
    (names, base), *more = (_sizes(config) for config in (least, *deeper))
    groups = np.array([sizes for _, sizes in more]) - base
    for added in itertools.product(*map(range, DEPTHS)):
        params, *macs = (base + np.array(added) @ groups).tolist()
        if conventions_that_agree(params, dict(zip(names, macs, strict=True))):
            yield replace(least, depths=tuple(1 + number for number in added))


def _sizes(config: CatConfig) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Names of the conventions, and an array of parameters and multiply-adds by each convention."""
    sizes = counted(config)
    return tuple(sizes.conventions), np.array([sizes.params, *sizes.conventions.values()])
