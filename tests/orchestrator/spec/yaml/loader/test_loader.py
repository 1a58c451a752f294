"""Broken job files: every fault has its line and column and says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import SpecError
from orchestrator.spec import load_job
from tests.orchestrator.spec.kinds import GOOD, KINDS, load_text

HEAD = """\
name: broken
store: ./store
stages:
  pretrain:
    kind: train
    data: data/digits
"""


def faults_of(text: str, folder: Path) -> list[str]:
    """Return the lines of the error, without the name of the file."""
    with pytest.raises(SpecError) as caught:
        load_text(text, folder)
    assert caught.value.exit_code == 2
    return [
        line.removeprefix(f"{folder}/job.yaml:").strip() for line in str(caught.value).splitlines()
    ]


# text after HEAD: further fields of the stage `pretrain`, from line 7 on
FIELDS = {
    "unknown field": (
        "    epoch: 3\n",
        ["7:5: stages.pretrain.epoch: unknown field, did you mean 'epochs'?"],
    ),
    "unknown common field": (
        "    sed: 3\n",
        ["7:5: stages.pretrain.sed: unknown field, did you mean 'seed'?"],
    ),
    "too small": ("    epochs: 0\n", ["7:13: stages.pretrain.epochs: must be at least 1, not 0"]),
    "not above": ("    lr: 0.0\n", ["7:9: stages.pretrain.lr: must be greater than 0, not 0.0"]),
    "not a number": (
        "    epochs: ten\n",
        ["7:13: stages.pretrain.epochs: must be a whole number, not 'ten'"],
    ),
    "a quoted number": (
        "    lr: '1e-3'\n",
        ["7:9: stages.pretrain.lr: must be a number, not '1e-3'"],
    ),
    "a fraction": (
        "    epochs: 1.0\n",
        ["7:13: stages.pretrain.epochs: must be a whole number, not 1.0"],
    ),
    "true is not a number": (
        "    epochs: true\n",
        ["7:13: stages.pretrain.epochs: must be a whole number, not true"],
    ),
    "yes is a string": (
        "    flip: yes\n",
        ["7:11: stages.pretrain.flip: must be true or false, not 'yes'"],
    ),
    "nothing written": (
        "    epochs:\n",
        ["7:5: stages.pretrain.epochs: must be a whole number, not null"],
    ),
    "NaN": ("    lr: .nan\n", ["7:9: stages.pretrain.lr: must be a finite number, not .nan"]),
    "infinity": (
        "    lr: -.inf\n",
        ["7:9: stages.pretrain.lr: must be a finite number, not -.inf"],
    ),
    "overflow": (
        "    lr: 1e999\n",
        ["7:9: stages.pretrain.lr: must be a finite number of double precision, not 1e999"],
    ),
    "65 bits": (
        "    epochs: 18446744073709551616\n",
        ["7:13: stages.pretrain.epochs: must fit in 64 bits, not 18446744073709551616"],
    ),
    "duplicate key": (
        "    epochs: 3\n    epochs: 4\n",
        ["8:5: stages.pretrain.epochs: duplicate key, first used at line 7"],
    ),
    "neither word nor mapping": (
        "    model: cat_smal\n",
        [
            "7:12: stages.pretrain.model: must be 'cat_tiny' or 'cat_small' or a mapping, not "
            "'cat_smal', did you mean 'cat_small'?"
        ],
    ),
    "inside a mapping": (
        "    model: {embed_dims: 3, depths: [1, 0]}\n",
        [
            "7:13: stages.pretrain.model.embed_dims: unknown field, did you mean 'embed_dim'?",
            "7:40: stages.pretrain.model.depths.1: must be at least 1, not 0",
        ],
    ),
    "not a list": (
        "    model: {depths: 3}\n",
        ["7:21: stages.pretrain.model.depths: must be a list, not 3"],
    ),
    "long list": (
        "    scale: [1, 2, 3]\n",
        ["7:12: stages.pretrain.scale: must have at most 2 items, not 3"],
    ),
    "short list": ("    scale: [1]\n", ["7:5: stages.pretrain.scale.1: has too few items: [1]"]),
    "fields that disagree": (
        "    warmup_epochs: 11\n",
        ["7:20: stages.pretrain.warmup_epochs: warmup_epochs (11) must be at most epochs (10)"],
    ),
    "expectation without a sign": (
        "    expect: {top1: 95}\n",
        [
            (
                "7:20: stages.pretrain.expect.top1: must be a comparison in quotes such as '>= "
                "95', not 95"
            )
        ],
    ),
    "expectation of another metric": (
        "    expect: {topl: '> 95'}\n",
        ["7:14: stages.pretrain.expect.topl: unknown metric, did you mean 'top5'?"],
    ),
    "resources": (
        "    resources: {worker: 1, cpus_per_worker: 0}\n",
        [
            "7:17: stages.pretrain.resources.worker: unknown field, did you mean 'workers'?",
            "7:45: stages.pretrain.resources.cpus_per_worker: must be at least 1, not 0",
        ],
    ),
    "workers as a string": (
        "    resources: {workers: two}\n",
        ["7:26: stages.pretrain.resources.workers: must be a whole number or a list, not 'two'"],
    ),
    "workers from zero": (
        "    resources: {workers: [0, 2]}\n",
        ["7:27: stages.pretrain.resources.workers.0: must be at least 1, not 0"],
    ),
    "three bounds of workers": (
        "    resources: {workers: [1, 2, 3]}\n",
        ["7:26: stages.pretrain.resources.workers: must have at most 2 items, not 3"],
    ),
    "workers from many to few": (
        "    resources: {workers: [4, 2]}\n",
        [
            (
                "7:26: stages.pretrain.resources.workers: workers: minimum 4 exceeds maximum 2; "
                "write [2, 4]"
            )
        ],
    ),
    "a range of workers that does not fit": (
        "    resources: {workers: [6, 7]}\n    epochs: 5\n",
        [
            (
                "7:26: stages.pretrain.resources.workers: no number of workers in [6, 7] fits the "
                "params of the stage, such as batch_size; change this range, or those params"
            )
        ],
    ),
    "one and a half GPUs": (
        "    resources: {gpus_per_worker: 1.5}\n",
        [
            (
                "7:34: stages.pretrain.resources.gpus_per_worker: gpus_per_worker above 1 must be "
                "a whole number, not 1.5"
            )
        ],
    ),
    "negative seed": ("    seed: -1\n", ["7:11: stages.pretrain.seed: must be at least 0, not -1"]),
    "python tag": (
        "    label: !!python/object/apply:os.system [ls]\n",
        [
            "7:12: stages.pretrain.label: YAML tags "
            "(tag:yaml.org,2002:python/object/apply:os.system) are not allowed; "
            "write the plain value"
        ],
    ),
    "own tag": (
        "    epochs: !ten 10\n",
        ["7:13: stages.pretrain.epochs: YAML tags (!ten) are not allowed; write the plain value"],
    ),
    "number as key": (
        "    1: 2\n",
        ["7:5: stages.pretrain: a key must be a string, not 1; put it in quotes"],
    ),
    "list as key": (
        "    ? [a]\n    : 2\n",
        ["7:7: stages.pretrain: a key must be a string, not a list or a mapping"],
    ),
    "merge key": (
        "    <<: {epochs: 3}\n",
        ["7:5: stages.pretrain: merge keys (<<) are not part of YAML 1.2; write out the fields"],
    ),
    "escaped NUL": (
        '    label: "a\\0"\n',
        [
            (
                "7:12: stages.pretrain.label: must be text without NUL characters and lone "
                "surrogates, not a\\x00"
            )
        ],
    ),
    "open list": (
        "    scale: [1\n",
        [
            (
                "8:1: invalid YAML: while parsing a flow sequence, expected ',' or ']', but got "
                "'<stream end>'"
            )
        ],
    ),
    "two colons": (
        "    label: a: b\n",
        ["7:13: invalid YAML: mapping values are not allowed here"],
    ),
    "tab": (
        "\tlabel: a\n",
        [
            "7:1: invalid YAML: while scanning for the next token, found character '\\t' that "
            "cannot "
            "start any token; "
            "indent with spaces"
        ],
    ),
    "two documents": (
        "---\nname: other\n",
        ["7:1: a second YAML document starts here; a job file has only one"],
    ),
    "unknown alias": (
        "    label: *no\n",
        ["7:12: stages.pretrain.label: the alias *no has no anchor before it"],
    ),
    "recursive alias": (
        "    label: &a [*a]\n",
        ["7:16: stages.pretrain.label.0: the alias *a refers to a value that contains it"],
    ),
    "params from a stage that trains": (
        "  other: {kind: train, data: d, params_from: pretrain.checkpoint}\n",
        [
            "7:46: stages.other.params_from: needs an output of kind tune.best_params, "
            "but pretrain.checkpoint is train.checkpoint"
        ],
    ),
    "data in a cloud": (
        "  other: {kind: train, data: 'gs://bucket/imagenet'}\n",
        ["7:30: stages.other.data: must be a folder, not 'gs://bucket/imagenet'"],
    ),
    "unknown kind": (
        "  other: {kind: trian, dota: d}\n",
        ["7:17: stages.other.kind: unknown kind 'trian', did you mean 'train'?"],
    ),
    "no kind": ("  other: {data: d}\n", ["7:3: stages.other.kind: is required"]),
    "no data": ("  other: {kind: train}\n", ["7:3: stages.other.data: is required"]),
    "stage is not a mapping": (
        "  other: 3\n",
        ["7:10: stages.other: must be a mapping with `kind` and its params, not 3"],
    ),
    "name of a stage": (
        "  a.b: {kind: train, data: d}\n",
        [
            "7:3: stages.a.b: a stage name must be a letter followed by up to 99 letters, digits, "
            "'_' or '-'"
        ],
    ),
}


@pytest.mark.parametrize(("fields", "faults"), FIELDS.values(), ids=FIELDS.keys())
def test_broken_stage_is_reported_with_position_and_advice(
    fields: str, faults: list[str], tmp_path: Path
) -> None:
    assert faults_of(HEAD + fields, tmp_path) == faults


FILES = {
    "empty": (b"", "is empty; a job file has at least `name`, `store` and `stages`"),
    "only comments": (
        b"# nothing\n---\n",
        "is empty; a job file has at least `name`, `store` and `stages`",
    ),
    "a list": (
        b"- name: x\n",
        '1:1: must be a mapping with `name`, `store` and `stages`, not [{"name": "x"}]',
    ),
    "a string": (b"name\n", "1:1: must be a mapping with `name`, `store` and `stages`, not 'name'"),
    "binary": (b"\x89PNG\r\n\x1a\n\0\0", "1:1: not UTF-8 text: the byte 0x89; is it a text file?"),
    "latin-1": (
        "name: x\nstore: caf\xe9\n".encode("latin-1"),
        "2:11: not UTF-8 text: the byte 0xe9; is it a text file?",
    ),
    "NUL": (
        b"name: x\nstore: \0\n",
        "2:8: contains the control character '\\x00'; is it a text file?",
    ),
    "too large": (b"#" * (2**19 + 1), "is larger than 512 KiB; is it a job file?"),
    "too deep": (b"a: " + b"[" * 100, f"1:44: a{'.0' * 40}: is nested more than 40 levels deep"),
    "directive": (b"%YAML 1.1\n---\nname: x\n", "1:1: YAML directives (%...) are not allowed"),
    "huge escape": (b'name: x\nstore: "\\UFFFFFFFF"', "2:1: invalid YAML after this position: "),
}


@pytest.mark.parametrize(("content", "fault"), FILES.values(), ids=FILES.keys())
def test_file_that_is_not_a_job_is_refused(content: bytes, fault: str, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(content)
    with pytest.raises(SpecError) as caught:
        load_job(path, kinds=KINDS, base_dir=tmp_path)
    separator = ":" if fault[0].isdigit() else ": "
    assert str(caught.value).startswith(f"{path}{separator}{fault}")
    assert len(caught.value.faults) == 1


@pytest.mark.parametrize(
    ("name", "fault"), [("none.yaml", "no such file"), ("", "is a folder, not a job file")]
)
def test_path_that_is_not_a_file_is_refused(name: str, fault: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=fault):
        load_job(tmp_path / name, kinds=KINDS, base_dir=tmp_path)


def test_file_that_cannot_be_read_is_refused() -> None:
    """The kernel opens this file but refuses to read it, like a broken disk."""
    with pytest.raises(SpecError, match=r"^/proc/self/mem: cannot be read: Input/output error$"):
        load_job(Path("/proc/self/mem"), kinds=KINDS, base_dir=Path("/"))


@pytest.mark.parametrize("width", [1, 10])
def test_aliases_that_expand_too_far_are_refused(width: int, tmp_path: Path) -> None:
    """Ten wide, they would expand to 10^60 values; one wide, too deep for any JSON parser."""
    levels = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, 61)]
    (fault,) = faults_of("\n".join(["a0: &a0 x", *levels]), tmp_path)
    assert "more than 50000 values" in fault if width == 10 else "more than 40 levels" in fault


def test_python_tag_is_never_executed(tmp_path: Path) -> None:
    faults_of(f"{HEAD}    label: !!python/object/apply:os.mkdir ['{tmp_path}/made']\n", tmp_path)
    assert not (tmp_path / "made").exists()


def test_all_faults_are_reported_at_once_in_file_order(tmp_path: Path) -> None:
    stages = [
        "b: {kind: train, epochs: 0}",
        "a: {kind: trane}",
        "b: {}",
        "c: {kind: train, data: d, lr: .inf}",
    ]
    text = "\n  ".join(["nam: x\nstages:", *stages])
    assert faults_of(text, tmp_path) == [
        "1:1: name: is required",
        "1:1: nam: unknown field, did you mean 'name'?",
        "1:1: store: is required: set it in the file or with --store",
        "3:3: stages.b.data: is required",
        "3:28: stages.b.epochs: must be at least 1, not 0",
        "4:13: stages.a.kind: unknown kind 'trane', did you mean 'train'?",
        "5:3: stages.b: duplicate key, first used at line 3",
        "6:33: stages.c.lr: must be a finite number, not .inf",
    ]


def test_good_file_has_no_fault(tmp_path: Path) -> None:
    assert load_text(GOOD, tmp_path).name == "digits"
