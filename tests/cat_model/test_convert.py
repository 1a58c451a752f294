"""`python -m cat_model.convert` on real files, read back by the real loaders of timm and
mmengine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors import safe_open
from torch import Tensor

from cat_model import (
    Cat,
    CatBackbone,
    CatConfig,
    from_reference,
    load_classifier,
    load_weights,
    save_classifier,
)
from cat_model.convert import main
from cat_model.weights.identify import load_checkpoint
from pipelines.openmmlab.library import quiet_import
from tests.cat_model.golden import load_vector
from tests.cat_model.weights.foreign import save_official, save_timm
from tests.cat_model.weights.wrong_files import MESSAGES, write_wrong_file

with quiet_import():
    from mmengine.model import initialize
    from mmengine.runner.checkpoint import load_checkpoint as load_with_mmengine

TOY = load_vector("toy")
TINY = load_vector("cat_tiny_224")
NORMS = [f"norm{i}.{part}" for i in range(4) for part in ("weight", "bias")]


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    path = tmp_path / "toy.pth"
    save_official(path, TOY.state_dict())
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("official") / "cat_tiny.pth"
    save_official(path, TINY.state_dict())
    return path


def convert(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def assert_equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    assert [name for name, tensor in left.items() if not torch.equal(tensor, right[name])] == []


def ours(vector: Any = TOY) -> dict[str, Tensor]:
    state: dict[str, Tensor] = from_reference(vector.kwargs, vector.state_dict()).state_dict()
    return state


@pytest.mark.parametrize("suffix", ["pth", "safetensors", "bin"])
def test_timm_loads_the_converted_official_file(tiny: Path, tmp_path: Path, suffix: str) -> None:
    assert convert(tiny, tmp_path / f"out.{suffix}", "--to", "timm") == 0
    model = timm.create_model("cat_tiny", checkpoint_path=str(tmp_path / f"out.{suffix}"))
    assert_equal(model.state_dict(), ours(TINY))


def test_mmengine_loads_a_backbone_that_lacks_only_norms(tiny: Path, tmp_path: Path) -> None:
    assert convert(tiny, tmp_path / "out.pth", "--to", "mmdet") == 0
    expected = from_reference(TINY.kwargs, TINY.state_dict())
    backbone = CatBackbone(expected.config)
    with pytest.raises(RuntimeError) as caught:
        load_with_mmengine(backbone, str(tmp_path / "out.pth"), map_location="cpu", strict=True)
    assert (
        str(caught.value).split("\n", 2)[2]
        == f"missing keys in source state_dict: {', '.join(NORMS)}\n"
    )
    fresh = CatBackbone(expected.config)
    initialize(fresh, {"type": "Pretrained", "checkpoint": str(tmp_path / "out.pth")})
    loaded = {name: tensor for name, tensor in fresh.state_dict().items() if name not in NORMS}
    assert_equal(loaded, {name: expected.state_dict()[name] for name in loaded})
    with torch.no_grad():
        maps = zip(
            fresh.eval().forward_maps(TINY.image()),
            expected.eval().forward_maps(TINY.image()),
            strict=True,
        )
        assert all(torch.equal(one, other) for one, other in maps)


def test_backbone_with_norms_converts_completely_to_mmdet(tmp_path: Path) -> None:
    vector = load_vector("toy_backbone_100x140")
    torch.save({"state_dict": vector.state_dict()}, tmp_path / "toy.pth")
    assert convert(tmp_path / "toy.pth", tmp_path / "out.pth", "--to", "mmdet") == 0
    expected = from_reference(vector.kwargs, vector.state_dict(), backbone=True)
    backbone = CatBackbone(expected.config)
    load_with_mmengine(backbone, str(tmp_path / "out.pth"), map_location="cpu", strict=True)
    assert_equal(backbone.state_dict(), expected.state_dict())


def test_safetensors_file_describes_the_network(toy: Path, tmp_path: Path) -> None:
    assert convert(toy, tmp_path / "out.safetensors") == 0
    with safe_open(tmp_path / "out.safetensors", framework="pt") as file:
        description = json.loads(file.metadata()["cat_model"])
        assert_equal({name: file.get_tensor(name) for name in file.keys()}, ours())  # noqa: SIM118 - no mapping
    config = CatConfig.from_dict(description["config"])
    assert config.embed_dim == 32
    assert config.image_hw == (112, 112)
    assert description["classes"] is None


@pytest.mark.parametrize("target", ["timm", "safetensors"])
def test_round_trips_return_the_original_tensors(toy: Path, tmp_path: Path, target: str) -> None:
    """Converts reference -> target -> safetensors -> timm -> our model."""
    first = tmp_path / ("a.pth" if target == "timm" else "a.safetensors")
    assert convert(toy, first, "--to", target) == 0
    assert convert(first, tmp_path / "b.safetensors") == 0
    assert convert(tmp_path / "b.safetensors", tmp_path / "c.pth") == 0
    model = Cat(load_checkpoint(toy).config, num_classes=10)
    load_weights(model, tmp_path / "c.pth")
    assert_equal(model.state_dict(), ours())


def test_backbone_converts_back_from_mmdet(toy: Path, tmp_path: Path) -> None:
    assert convert(toy, tmp_path / "a.pth", "--to", "mmdet") == 0
    assert convert(tmp_path / "a.pth", tmp_path / "b.safetensors") == 0
    found = load_checkpoint(tmp_path / "b.safetensors").weights.tensors
    assert_equal(
        dict(found),
        {name: tensor for name, tensor in ours().items() if not name.startswith(("norm", "head"))},
    )


def test_our_folder_keeps_its_config_and_classes(tmp_path: Path) -> None:
    config = CatConfig(
        img_size=56, embed_dim=16, depths=(1, 1), num_heads=(1, 2), qk_scale=0.3, drop_path_rate=0.2
    )
    model = Cat(config, num_classes=2)
    save_classifier(tmp_path / "ours", model, classes=("a", "b"))
    assert convert(tmp_path / "ours", tmp_path / "out.pth") == 0
    found = load_checkpoint(tmp_path / "out.pth")
    assert found.config == config
    assert found.classes == ("a", "b")
    assert_equal(
        dict(found.weights.tensors), dict(load_classifier(tmp_path / "ours")[0].state_dict())
    )


def test_report_is_complete_and_digest_is_of_the_file(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.pth"
    assert convert(toy, out, "--to", "mmdet", "--img-size", "84x140") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(
        f"{toy}: classifier, not a published size: CatConfig(img_size=(112, 112)"
    )
    assert lines[1:6] == [
        f"mapped: {len(ours()) - 4} tensors",
        "resized: ape (1, 56, 56, 32) -> (1, 42, 70, 32)",
        f"new: {', '.join(NORMS)}",
        "left out: norm.weight, norm.bias, head.weight, head.bias",
        "recomputed: 8 index buffers",
    ]
    assert lines[6:] == [
        f"wrote {out} for mmdet, {out.stat().st_size} bytes",
        f"sha256 {sha256(out.read_bytes()).hexdigest()}",
    ]
    assert load_checkpoint(out).config.image_hw == (84, 140)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_same_input_gives_same_bytes_for_any_file_name(
    toy: Path, tmp_path: Path, suffix: str
) -> None:
    outs = [tmp_path / f"{stem}.{suffix}" for stem in ("a", "longer_name")]
    assert [convert(toy, out) for out in outs] == [0, 0]
    assert outs[0].read_bytes() == outs[1].read_bytes()


def test_plain_weights_are_preferred_to_averaged_weights(tmp_path: Path) -> None:
    save_timm(tmp_path / "in.pth", ours())
    assert convert(tmp_path / "in.pth", tmp_path / "out.safetensors") == 0
    assert_equal(dict(load_checkpoint(tmp_path / "out.safetensors").weights.tensors), ours())


def test_out_is_overwritten_only_with_force(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.pth"
    out.write_bytes(b"precious")
    assert convert(toy, out) == 2
    assert out.read_bytes() == b"precious"
    assert f"{out}: exists; use --force" in capsys.readouterr().err
    assert convert(toy, out, "--force") == 0
    assert load_checkpoint(out).is_classifier


def test_other_detector_parts_are_left_out_only_if_allowed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vector = load_vector("toy_backbone_100x140")
    state = {f"backbone.{name}": tensor for name, tensor in vector.state_dict().items()}
    torch.save({"state_dict": state | {"neck.bias": torch.zeros(3)}}, tmp_path / "in.pth")
    assert convert(tmp_path / "in.pth", tmp_path / "out.pth", "--to", "mmdet") == 2
    assert "unexpected: neck.bias (3,)" in capsys.readouterr().err
    assert (
        convert(tmp_path / "in.pth", tmp_path / "out.pth", "--to", "mmdet", "--allow-unexpected")
        == 0
    )
    assert "left out: neck.bias" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere.pth", "out.pth"), r"nowhere\.pth: cannot be read: No such file or directory"),
        (
            (".", "out.pth"),
            (
                r"\.: has no model\.json, so `save_classifier` did not write this folder; give "
                r"the "
                r"check"
            ),
        ),
        (
            ("toy.pth", "out"),
            r"out: unknown suffix; choose the target: --to timm \| mmdet \| safetensors",
        ),
        (("toy.pth", "out.pth", "--to", "safetensors"), r"out\.pth: must end in \.safetensors"),
        (
            ("toy.pth", "out.safetensors", "--to", "mmdet"),
            r"out\.safetensors: mmengine cannot read \.safetensors",
        ),
        (("toy.pth", "out.npz", "--to", "timm"), r"out\.npz: timm reads \.npz as NumPy arrays"),
        (("toy.pth", "folder", "--to", "timm"), r"folder: is a folder; give a file"),
        (("toy.pth", "no/out.pth"), r"no: no such folder; create it first"),
        (
            ("toy.pth", "out.pth", "--img-size", "1"),
            r"--img-size: img_size must be at least a patch",
        ),
        (
            ("toy.pth", "out.pth", "--model", "cat_tiny"),
            r"toy\.pth and cat_tiny differ in \d+ tensors:\n  missing",
        ),
        (
            ("backbone.pth", "out.pth"),
            r"backbone\.pth: is a backbone without the head that timm needs; use --to mmdet",
        ),
        (
            ("broken.pth", "out.pth"),
            r"broken\.pth: holds none of cat_tiny, .*\n  missing: head\.bias \(10,\)$",
        ),
        (("text.pth", "out.pth"), r"text\.pth: is text, which begins 'hello'; give the checkpoint"),
        (("list.pth", "out.pth"), r"list\.pth: holds a list, not a state_dict"),
    ],
)
def test_user_error_gives_one_message_and_code_2(
    toy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("text.pth").write_text("hello")
    torch.save([1, 2], "list.pth")
    torch.save(load_vector("toy_backbone_100x140").state_dict(), "backbone.pth")
    torch.save(
        {name: tensor for name, tensor in TOY.state_dict().items() if name != "head.bias"},
        "broken.pth",
    )
    before = sorted(tmp_path.rglob("*"))
    assert convert(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("cat_model.convert: ")
    assert re.search(message, captured.err.strip())
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "arguments", [(), ("in",), ("in", "out", "--to", "onnx"), ("in", "out", "--img-size", "big")]
)
def test_invalid_command_line_exits_with_code_2(arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as caught:
        convert(*arguments)
    assert caught.value.code == 2


def test_convert_runs_as_a_module(toy: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cat_model.convert"]
    done = subprocess.run(
        [*command, toy, tmp_path / "out.pth"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert done.stderr == ""
    assert (
        done.stdout.splitlines()[-1]
        == f"sha256 {sha256((tmp_path / 'out.pth').read_bytes()).hexdigest()}"
    )
    again = subprocess.run(
        [*command, toy, tmp_path / "out.pth"], capture_output=True, text=True, check=False
    )
    assert again.returncode == 2
    assert again.stderr.splitlines() == [
        (
            f"cat_model.convert: {tmp_path / 'out.pth'}: exists; use --force to overwrite it, or "
            "choose another name"
        )
    ]


@pytest.mark.parametrize("name", MESSAGES)
def test_wrong_file_is_named_and_exits_with_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    write_wrong_file(name, tmp_path / "in.pth")
    assert convert(tmp_path / "in.pth", tmp_path / "out.pth") == 2
    error = capsys.readouterr().err
    message = r"has no model\.json, so" if name == "folder" else MESSAGES[name]
    assert re.match(rf"cat_model\.convert: {tmp_path}/in\.pth: {message}", error)
    assert "weights_only" not in error
    assert not (tmp_path / "out.pth").exists()
