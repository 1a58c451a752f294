"""Config files read as text: their part of a Key, and errors that name the file."""

from __future__ import annotations

import importlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import mmdet
import pytest
from pydantic import ValidationError

from orchestrator.errors import DataError
from orchestrator.plan import PriorRuns, make_plan
from orchestrator.planning import read_digests
from orchestrator.spec import load_job
from pipelines import KINDS
from pipelines.detection.kind import KIND
from pipelines.detection.params import DetectionParams
from pipelines.openmmlab.config_file import config_digest, read_config

RETINANET = "retinanet/retinanet_r50_fpn_1x_coco.py"


def _write(root: Path, **files: str) -> Path:
    """Writes files by stem and returns the path of the first one."""
    root.mkdir(exist_ok=True, parents=True)
    for stem, text in files.items():
        (root / f"{stem}.py").write_text(text)
    return root / f"{next(iter(files))}.py"


def _digest(path: Path | str) -> str:
    return config_digest(str(path), library="mmdet")


def test_config_digest_covers_the_file_and_its_bases(tmp_path: Path) -> None:
    files = {
        "own": "_base_ = ['./base.py']\nmodel = dict(a=1)\n",
        "base": "_base_ = './deep.py'\n",
        "deep": "x = 1\n",
    }
    digest = _digest(_write(tmp_path / "one", **files))
    assert _digest(_write(tmp_path / "two", **files)) == digest
    for stem, text in files.items():
        changed = {**files, stem: f"{text}# new\n"}
        assert _digest(_write(tmp_path / stem, **changed)) != digest


def test_nothing_is_executed_for_the_digest(tmp_path: Path) -> None:
    path = _write(tmp_path, own="model = dict(a=1)\nraise SystemExit(3)\n")
    assert len(_digest(path)) == 64


def test_configs_of_the_installed_library_are_found() -> None:
    (package,) = mmdet.__path__
    configs = Path(package) / ".mim" / "configs"
    file = read_config(f"mmdet::{RETINANET}", library="mmdet")
    assert file.path == configs / RETINANET
    assert file.bases[0].path.name == "retinanet_r50_fpn.py"
    assert _digest(f"mmdet::{RETINANET}") == _digest(configs / RETINANET)


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        ({"own": "model = dict(\n"}, r"own\.py: not a valid Python file: .*line 1"),
        (
            {"own": "x = 1\n"},
            r"own\.py: not a model config: neither the file nor its bases assign `model`",
        ),
        (
            {"own": "_base_ = './gone.py'\nmodel = 1\n"},
            r"own\.py: its base \./gone\.py is missing: .*is not a file",
        ),
        ({"own": "_base_ = 'mmdet::gone.py'\n"}, r"own\.py: its base mmdet::gone\.py is missing"),
        (
            {"own": "_base_ = 'mmseg::fcn.py'\n"},
            r"mmseg::fcn\.py: belongs to mmseg, but this stage builds models of mmdet",
        ),
        (
            {"own": "_base_ = './other.py'\n", "other": "_base_ = ['./own.py']\n"},
            r"bases form a cycle: .*own\.py -> .*other\.py -> .*own\.py",
        ),
        (
            {"own": "_base_ = ['a' + '.py']\nmodel = 1\n"},
            r"own\.py: _base_ must be assigned once",
        ),
        (
            {"own": "_base_ = 'a.py'\n_base_ = 'b.py'\n"},
            r"own\.py: _base_ must be assigned once",
        ),
        (
            {"own": "from mmengine.config import read_base\nmodel = 1\n"},
            r"own\.py:1: imports are not allowed, because the stage's Key",
        ),
        (
            {"own": "custom_imports = dict(imports=['a'])\nmodel = 1\n"},
            r"own\.py: custom_imports are not allowed",
        ),
        (
            {"own": "model = dict(a='{{ $HOME:x }}')\n"},
            r"own\.py: \{\{ \$HOME }} would take its value from outside",
        ),
        (
            {"own": "model = dict(a='{{ fileDirname }}')\n"},
            r"own\.py: \{\{ fileDirname }} would take its value",
        ),
    ],
)
def test_invalid_or_open_config_is_refused(
    tmp_path: Path, files: dict[str, str], fault: str
) -> None:
    with pytest.raises(DataError, match=fault):
        _digest(_write(tmp_path, **files))


def test_config_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    """Linux refuses to read the first page of a process's memory, also to root."""
    (tmp_path / "own.py").symlink_to("/proc/self/mem")
    fault = r"^config: /proc/\d+/mem: cannot be read: Input/output error$"
    with pytest.raises(DataError, match=fault):
        _digest(tmp_path / "own.py")


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("open('/x').read()", "open"),
        ("__import__('os').environ['HOME']", "__import__"),
        ("[eval('1')]", "eval"),
        ("f'{exec(1)}'", "exec"),
        ("(lambda: compile('1', '', 'eval'))()", "compile"),
        ("globals()['x']", "globals"),
        ("vars()", "vars"),
        ("getattr(dict, 'x')", "getattr"),
        ("__builtins__['x']", "__builtins__"),
        ("().__class__.__base__.__subclasses__()", "__[a-z]+__"),
        ("list(set('ab'))", "set"),
        ("id(1)", "id"),
    ],
)
def test_function_with_access_to_the_outside_is_refused(
    tmp_path: Path, value: str, name: str
) -> None:
    fault = rf"own\.py:2: {name} is not allowed, because the .* of Python: abs, "
    with pytest.raises(DataError, match=fault):
        _digest(_write(tmp_path, own=f"x = 1\nmodel = dict(a={value})\n"))


@pytest.mark.parametrize(
    "text",
    [
        "_base_: list = ['base.py']",
        "x = _base_ = 'base.py'",
        "if True:\n    _base_ = 'base.py'",
        "_base_ = []\n_base_ += ['base.py']",
        "_base_, x = 'base.py', 1",
        "x = (_base_ := 'base.py')",
        "for _base_ in ['base.py']: pass",
        "def _base_(): pass",
        "_base_ = 'base.py'\ndel _base_",
    ],
)
def test_bases_must_be_one_plain_assignment(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match=r"own\.py: _base_ must be assigned once"):
        _digest(_write(tmp_path, own=f"{text}\nmodel = 1\n", base="model = 1\n"))


def test_config_may_calculate(tmp_path: Path) -> None:
    own = (
        "type = 'A'\nwidths = [max(8, 2**i) for i in range(4)]\nif sum(widths) < 1:\n    raise "
        "ValueError('few')\n"
    )
    assert _digest(_write(tmp_path, own=f"{own}model = dict(a=sorted(widths)[-1], b=len('x'))\n"))


def _fault(path: Path, library: str) -> str:
    try:
        read_config(str(path), library=library)
    except DataError as err:
        return str(err)
    return ""


@pytest.mark.parametrize("library", ["mmdet", "mmseg"])
def test_configs_of_installed_libraries_use_nothing_from_outside(library: str) -> None:
    (package,) = importlib.import_module(library).__path__
    configs = sorted((Path(package) / ".mim" / "configs").rglob("*.py"))
    calculating = [
        path
        for path in configs
        if re.search(r"\b(range|sum|len|enumerate|int)\(", path.read_text())
    ]
    faults = [_fault(path, library) for path in {*configs[::30], *calculating}]
    assert len([fault for fault in faults if not fault]) > 20
    assert not [
        fault for fault in faults if re.search("is not allowed|must be assigned once", fault)
    ]


def test_config_path_must_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "binary.py").write_bytes(b"\x00\xff")
    for name, fault in (
        ("gone", "no such file"),
        ("folder", "is a folder"),
        ("binary", "not a valid Python file"),
    ):
        with pytest.raises(DataError, match=rf"config: .*{name}\.py: {fault}"):
            _digest(tmp_path / f"{name}.py")


def _params(**fields: Any) -> DetectionParams:
    return DetectionParams.model_validate_json(
        json.dumps({"backbone": "p.checkpoint", "data": "/coco", **fields})
    )


def test_key_covers_the_content_of_a_config_but_not_its_path(tmp_path: Path) -> None:
    params = _params(config=str(_write(tmp_path / "one", own="model = 1\n")))
    other = _params(config=str(_write(tmp_path / "two", own="model = 1\n")))
    assert params.in_key() == other.in_key()
    assert KIND.reads(params) == KIND.reads(other)
    (tmp_path / "two" / "own.py").write_text("model = 2\n")
    assert KIND.reads(params) != KIND.reads(other)
    assert KIND.reads(_params(method="fcos")) == {}


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({}, r"must have either `method` .* or `config`"),
        ({"method": "fcos", "config": "/a.py"}, r"must have either `method` .* or `config`"),
        (
            {"config": "/a.yaml"},
            r"must be a \.py config file or LIBRARY::PATH\.py, not '/a\.yaml'",
        ),
        ({"config": "s3://b/a.py"}, r"must be a \.py config file"),
        ({"config": "/a.py", "num_rois": 8}, r"num_rois\s+config has no such setting"),
        ({"config": "/a.py", "channels": 8}, r"channels\s+config has no such setting"),
        ({"method": "fcos", "masks": True}, r"masks\s+needs `config`; fcos defines"),
        (
            {"method": "fcos", "keep_backbone": True},
            r"keep_backbone\s+needs `config`; the methods are built on CAT",
        ),
    ],
)
def test_conflicting_fields_are_refused(fields: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        _params(**fields)


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({}, "init: must be scratch with keep_backbone"),
        ({"init": "scratch"}, "backbone: applies to CAT"),
        ({"init": "scratch", "backbone": None, "model": "cat_tiny"}, "model: applies to CAT"),
        (
            {"init": "scratch", "backbone": None, "frozen_stages": 1},
            "frozen_stages: applies to CAT",
        ),
        (
            {"init": "scratch", "backbone": None, "layer_decay": 0.5},
            "layer_decay: works only with CAT",
        ),
    ],
)
def test_fields_of_cat_are_refused_with_another_backbone(
    fields: dict[str, Any], fault: str
) -> None:
    found = next(_params(config="/a.py", keep_backbone=True, **fields).start_misfits())
    assert f"{found.steps[0]}: {found.message}".startswith(fault)


def _keys(tmp_path: Path, config: str) -> dict[str, str]:
    """The Keys of a job with a stage of `config` and its evaluation. The job states the digest of
    the data, which is absent."""
    path = tmp_path / "job.yaml"
    stated = f"data: /absent, data_fingerprint: {'a' * 64}"
    path.write_text(
        "name: job\nstore: store\nstages:\n"
        f"  own: {{kind: detection, config: {config}, init: scratch, model: cat_tiny, {stated}}}\n"
        "  measured: {kind: evaluate, of: own}\n"
    )
    job = load_job(path, kinds=KINDS, base_dir=tmp_path)
    evaluation = job.stages["measured"]
    stated_too = replace(evaluation, data_fingerprint="a" * 64)
    job = replace(job, stages={**job.stages, "measured": stated_too})
    plan = make_plan(
        job, digests=read_digests(job, job.stages), prior=PriorRuns(lambda _: False, {}, {})
    )
    return {planned.stage.name: planned.key for planned in plan.stages}


def test_config_enters_the_keys_of_stage_and_evaluation(
    tmp_path: Path,
) -> None:
    _write(tmp_path, own="_base_ = 'base.py'\n", base="model = 1\n")
    keys = _keys(tmp_path, "own.py")
    assert _keys(tmp_path, str(tmp_path / "own.py")) == keys
    _write(tmp_path, base="model = 2\n")
    changed = _keys(tmp_path, "own.py")
    assert {name for name in keys if keys[name] != changed[name]} == {"own", "measured"}
    assert _keys(tmp_path, f"mmdet::{RETINANET}").keys() == keys.keys()


def test_an_invalid_config_is_reported_by_the_plan(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"stages\.own: config: .*gone\.py: no such file"):
        _keys(tmp_path, "gone.py")


def test_a_loop_of_links_and_a_too_long_name_are_reported(tmp_path: Path) -> None:
    (tmp_path / "loop.py").symlink_to("loop.py")
    with pytest.raises(DataError, match=r"config: .*loop\.py: its symbolic links form a loop"):
        config_digest(str(tmp_path / "loop.py"), library="mmdet")
    with pytest.raises(DataError, match=r"xx\.py: cannot be read: File name too long"):
        config_digest(f"{tmp_path}/{'x' * 300}.py", library="mmdet")
