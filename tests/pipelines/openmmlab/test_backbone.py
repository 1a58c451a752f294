"""CAT in mmdet's and mmseg's models gets and keeps its weights, or the error names what does not
fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from orchestrator.errors import CheckpointError
from pipelines.openmmlab.backbone import make_backbone, read_pretrained
from tests.cat_model.golden import load_vector
from tests.cat_model.weights.wrong_files import MESSAGES, write_wrong_file
from tests.pipelines.openmmlab.harness import save_toy_checkpoint


def test_backbone_has_the_checkpoint_weights_and_drop_path(tmp_path: Path) -> None:
    saved = load_file(save_toy_checkpoint(tmp_path / "checkpoint") / "model.safetensors")
    config = read_pretrained(tmp_path / "checkpoint", drop_path_rate=0.3).config
    tensors = make_backbone(config.to_dict(), str(tmp_path / "checkpoint")).state_dict()
    arrived = [name for name in tensors if name in saved]
    assert config.drop_path_rate == 0.3
    assert {name for name in tensors if name not in saved} == {
        f"norm{i}.{p}" for i in range(4) for p in ("weight", "bias")
    }
    assert all(torch.equal(tensors[name], saved[name]) for name in arrived)


def test_file_in_the_official_layout_loads_as_backbone(tmp_path: Path) -> None:
    official = load_vector("cat_tiny_224").state_dict()
    torch.save({"model": official}, tmp_path / "cat_tiny.pth")
    config = read_pretrained(tmp_path, drop_path_rate=None).config
    backbone = make_backbone(config.to_dict(), str(tmp_path))
    assert config.embed_dim == 64
    assert torch.equal(backbone.patch_embed.proj.weight, official["patch_embed.proj.weight"])


def test_without_checkpoint_the_backbone_is_random(tmp_path: Path) -> None:
    config = read_pretrained(
        save_toy_checkpoint(tmp_path / "checkpoint"), drop_path_rate=None
    ).config
    one, other = make_backbone(config.to_dict()), make_backbone(config.to_dict())
    assert not torch.equal(one.stages[0].state_dict().popitem()[1], torch.zeros(1))
    assert any(
        not torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True)
    )


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    directory = save_toy_checkpoint(tmp_path / "checkpoint")
    tensors = load_file(directory / "model.safetensors")
    name = next(
        name
        for name, tensor in tensors.items()
        if tensor.shape == (16,) and name.startswith("stages.0")
    )
    tensors[name] = torch.zeros(17)
    save_file(tensors, directory / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"{name} is \(17,\), the model needs \(16,\)"):
        read_pretrained(directory, drop_path_rate=None)


def test_folder_without_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"nowhere.*set `backbone` to the checkpoint of a pretrain stage"
    ):
        read_pretrained(tmp_path / "nowhere", drop_path_rate=None)


@pytest.mark.parametrize("name", ["lfs_pointer", "web_page", "protocol_4", "torchscript"])
def test_wrong_file_is_refused_with_what_it_really_is(tmp_path: Path, name: str) -> None:
    write_wrong_file(name, tmp_path / "cat.pth")
    with pytest.raises(
        CheckpointError, match=rf"^backbone: .*cat\.pth: {MESSAGES[name]}.*; set `backbone` to"
    ):
        read_pretrained(tmp_path, drop_path_rate=None)
