from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from cat_model import (
    Cat,
    CatConfig,
    WeightsError,
    from_reference,
    load_backbone,
    load_classifier,
    load_official_classifier,
    load_weights,
    save_classifier,
)
from tests.cat_model.golden import load_vector

TOY = CatConfig(
    img_size=56, embed_dim=16, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8), drop_path_rate=0.1
)
CLASSES = ("cat", "dog", "bird")


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, Cat]:
    torch.manual_seed(0)
    model = Cat(TOY, num_classes=3).eval()
    save_classifier(tmp_path, model, classes=CLASSES)
    return tmp_path, model


def rewrite(directory: Path, **changes: Any) -> None:
    """Adds tensors by name, with dots written as __; None removes a tensor."""
    tensors = load_file(directory / "model.safetensors")
    for name, tensor in changes.items():
        tensors.pop(name.replace("__", "."), None)
        if tensor is not None:
            tensors[name.replace("__", ".")] = tensor
    save_file(tensors, directory / "model.safetensors")


def test_classifier_is_restored_bit_for_bit(saved: tuple[Path, Cat]) -> None:
    directory, model = saved
    loaded, classes = load_classifier(directory)
    image = torch.randn(2, 3, 56, 56)
    assert classes == CLASSES
    assert loaded.config == model.config
    assert torch.equal(loaded.eval()(image), model(image))


@pytest.mark.parametrize("out_indices", [(0, 1, 2, 3), (1, 2)])
def test_backbone_has_the_classifiers_trunk_and_new_norms(
    saved: tuple[Path, Cat], out_indices: tuple[int, ...]
) -> None:
    directory, model = saved
    backbone = load_backbone(directory, out_indices=out_indices, drop_path_rate=0.3)
    trained, loaded = model.state_dict(), backbone.state_dict()
    norms = {name for name in loaded if name not in trained}
    assert norms == {f"norm{i}.{part}" for i in out_indices for part in ("weight", "bias")}
    assert all(torch.equal(loaded[name], trained[name]) for name in loaded if name in trained)
    assert all(
        torch.equal(loaded[name], torch.full_like(loaded[name], name.endswith("weight")))
        for name in norms
    )
    assert backbone.config == replace(TOY, drop_path_rate=0.3)


def test_backbone_inherits_the_classifiers_drop_path(saved: tuple[Path, Cat]) -> None:
    assert load_backbone(saved[0]).config.drop_path_rate == 0.1


@pytest.mark.parametrize("load", [load_classifier, load_backbone])
def test_tensors_that_do_not_fit_are_listed_with_their_shapes(
    saved: tuple[Path, Cat], load: Any
) -> None:
    rewrite(
        saved[0],
        ape=torch.zeros(1, 7, 7, 16),
        patch_embed__norm__bias=None,
        stages__9__x=torch.zeros(2, 2),
        patch_embed__norm__weight=torch.ones(16, dtype=torch.int64),
    )
    with pytest.raises(WeightsError) as caught:
        load(saved[0])
    assert str(saved[0] / "model.safetensors") in str(caught.value)
    assert str(caught.value).splitlines()[1:] == [
        "  missing: patch_embed.norm.bias (16,)",
        "  shape: ape is (1, 7, 7, 16), the model needs (1, 14, 14, 16)",
        "  type: patch_embed.norm.weight is torch.int64, the model needs floats",
        "  unexpected: stages.9.x (2, 2)",
    ]


def test_error_survives_pickling(saved: tuple[Path, Cat]) -> None:
    rewrite(saved[0], ape=None)
    with pytest.raises(WeightsError, match=r"missing: ape \(1, 14, 14, 16\)") as caught:
        load_backbone(saved[0])
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ("{", r"model\.json: not readable as JSON"),
        ("[" * 100_000, r"model\.json: not readable as JSON"),
        (
            "[]",
            r"model\.json: must be a mapping with exactly the fields format, config and classes",
        ),
        ({"format": 2}, r"model\.json: format must be 1, got 2"),
        ({"classes": ["a", 2, "c"]}, r"model\.json: classes must be a list of names"),
        ({"classes": None}, r"model\.json: classes must be a list of names"),
        ({"config": 3}, r"model\.json: config must be a mapping"),
        ({"config": {"embed_dim": -1}}, r"model\.json: config: embed_dim must be a whole number"),
        ({"config": {"width": 16}}, r"model\.json: config: unknown fields width"),
        ({"classes": ["a", "b"]}, r"shape: head\.fc\.bias is \(3,\), the model needs \(2,\)"),
    ],
)
def test_broken_description_is_refused(
    saved: tuple[Path, Cat], description: Any, message: str
) -> None:
    path = saved[0] / "model.json"
    if isinstance(description, dict):
        description = json.dumps(json.loads(path.read_text()) | description)
    path.write_text(description)
    with pytest.raises(WeightsError, match=message):
        load_classifier(saved[0])


def test_pickle_in_place_of_safetensors_is_refused(saved: tuple[Path, Cat]) -> None:
    torch.save({"ape": torch.zeros(1)}, saved[0] / "model.safetensors")
    with pytest.raises(WeightsError, match=r"model\.safetensors: not readable as safetensors"):
        load_backbone(saved[0])


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"nowhere: no such folder"):
        load_classifier(tmp_path / "nowhere")
    (tmp_path / "other").mkdir()
    with pytest.raises(
        WeightsError,
        match=r"other: has no model\.json, so `save_classifier` did not write this folder",
    ):
        load_classifier(tmp_path / "other")
    (tmp_path / "file").touch()
    with pytest.raises(
        WeightsError, match=r"file: is a file; `load_weights` and the official loaders read single"
    ):
        load_classifier(tmp_path / "file")


def test_path_may_be_a_string(tmp_path: Path) -> None:
    folder, file = str(tmp_path / "saved"), str(tmp_path / "cat.pth")
    model = Cat(TOY, num_classes=3)
    save_classifier(folder, model, classes=CLASSES)
    assert load_classifier(folder)[1] == CLASSES
    load_backbone(folder)
    torch.save(model.state_dict(), file)
    other = Cat(TOY, num_classes=3)
    load_weights(other, file)
    assert torch.equal(other.head.fc.weight, model.head.fc.weight)
    with pytest.raises(
        WeightsError, match=r"^nowhere\.pth: cannot be read: No such file or directory"
    ):
        load_weights(other, "nowhere.pth")
    with pytest.raises(
        WeightsError, match=rf"^{folder}: is a folder; give the checkpoint file in it"
    ):
        load_weights(other, folder)
    with pytest.raises(
        WeightsError, match=r"^nowhere\.pth: cannot be read: No such file or directory"
    ):
        load_official_classifier("nowhere.pth")


def test_other_types_than_path_and_state_dict_are_refused() -> None:
    model: Any = Cat(TOY, num_classes=3)
    with pytest.raises(
        WeightsError, match="weights must be the path of a file or a state_dict, got a Cat"
    ):
        load_weights(model, model)


def test_saving_needs_a_name_for_each_class(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"classes must name each of the model's 3 classes, got 2 names"
    ):
        save_classifier(tmp_path, Cat(TOY, num_classes=3), classes=("a", "b"))


def test_reference_tensors_that_do_not_fit_are_listed() -> None:
    vector = load_vector("toy")
    state_dict = vector.state_dict() | {"extra": torch.zeros(1), "head.bias": torch.zeros(3)}
    del (
        state_dict["layers.0.downsample.norm.weight"],
        state_dict["layers.1.cpsa_blocks.0.norm1.bias"],
    )
    with pytest.raises(WeightsError) as caught:
        from_reference(vector.kwargs, state_dict)
    assert str(caught.value).splitlines()[1:] == [
        "  missing: layers.0.downsample.norm.weight (128,)",
        "  missing: layers.1.cpsa_blocks.0.norm1.bias (64,)",
        "  shape: head.bias is (3,), the model needs (10,)",
        "  unexpected: extra (1,)",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"window": 7}, r"unknown kwargs window; the reference has"),
        ({"patch_emb_size": (2, 4)}, r"patch_emb_size must be square, got \(2, 4\)"),
        ({"ipsa_attn_drop": 0.1}, r"ipsa_attn_drop and cpsa_attn_drop must be equal"),
        ({"slice_emb": True}, r"patch_emb_size must be 1 with slice_emb, got 2"),
    ],
)
def test_unsupported_reference_arguments_are_refused(change: dict[str, Any], message: str) -> None:
    vector = load_vector("toy")
    with pytest.raises(ValueError, match=message):
        from_reference(vector.kwargs | change, vector.state_dict())


def test_reference_backbone_may_leave_out_stages() -> None:
    vector = load_vector("toy_backbone_100x140")
    tensors = {
        name: t
        for name, t in vector.state_dict().items()
        if not name.startswith(("norm0", "norm3"))
    }
    maps = from_reference(vector.kwargs | {"out_indices": (1, 2)}, tensors, backbone=True)(
        vector.image()
    )
    assert [tuple(x.shape) for x in maps] == [(2, 64, 13, 18), (2, 128, 7, 9)]
