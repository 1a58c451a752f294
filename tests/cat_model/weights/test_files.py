"""Checkpoint files: extra objects of other programs are ignored, and anything that would run code
is refused and not run."""

from __future__ import annotations

import builtins
import os
import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from cat_model import WeightsError
from cat_model.weights.files import load_file, write_atomically
from tests.cat_model.weights.foreign import save_mmengine, save_official, save_timm
from tests.cat_model.weights.wrong_files import MESSAGES, write_wrong_file

STATE = {"ape": torch.arange(6.0).view(1, 1, 6), "norm.bias": torch.ones(2, dtype=torch.float16)}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(
        torch.equal(left[name], right[name]) for name in left
    )


@pytest.mark.parametrize("is_legacy", [False, True])
def test_official_file_is_read_without_yacs(tmp_path: Path, is_legacy: bool) -> None:
    save_official(tmp_path / "cat.pth", STATE, is_legacy=is_legacy)
    with pytest.raises(ModuleNotFoundError):
        __import__("yacs")
    content = load_file(tmp_path / "cat.pth")
    assert same(content["model"], STATE)
    assert content["epoch"] == 299
    assert content["config"]["MODEL"]["CAT"] == {"DEPTHS": [1, 1, 3, 1], "APE": True}


@pytest.mark.parametrize("save", [save_timm, save_mmengine])
def test_files_of_timm_and_mmengine_are_read(tmp_path: Path, save: Callable[..., None]) -> None:
    save(tmp_path / "cat.pth", STATE)
    assert same(load_file(tmp_path / "cat.pth")["state_dict"], STATE)


def test_no_class_stays_allowed_after_reading(tmp_path: Path) -> None:
    save_official(tmp_path / "cat.pth", STATE)
    before = set(torch.serialization.get_safe_globals())
    load_file(tmp_path / "cat.pth")
    assert set(torch.serialization.get_safe_globals()) == before
    with pytest.raises(pickle.UnpicklingError, match=r"yacs\.config\.CfgNode|multiarray\.scalar"):
        torch.load(tmp_path / "cat.pth", weights_only=True)


class Call:
    """A pickle that calls `function(*arguments)` when it is read."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize("is_legacy", [False, True])
@pytest.mark.parametrize(
    ("function", "seen"),
    [(os.system, r"posix\.system|nt\.system"), (eval, r"builtins\.eval"), (exec, "builtins.exec")],
)
def test_payload_is_refused_by_name_and_not_run(
    tmp_path: Path, function: Callable[..., object], seen: str, is_legacy: bool
) -> None:
    path, proof = tmp_path / "cat.pth", tmp_path / "proof"
    command = f"touch {proof}" if function is os.system else f"open({str(proof)!r}, 'w').close()"
    torch.save(
        {"model": STATE, "x": Call(function, command)},
        path,
        _use_new_zipfile_serialization=not is_legacy,
    )
    with pytest.raises(
        WeightsError, match=rf"cat\.pth: .*uses ({seen}), .*none of its code was run"
    ):
        load_file(path)
    assert not proof.exists()
    torch.load(path, weights_only=False)  # the payload is a real one
    assert proof.exists()


def test_payload_through_getattr_gets_no_attribute(tmp_path: Path) -> None:
    """getattr has a replacement, because mmengine's log names methods with it."""
    hidden = Call(builtins.getattr, Path, "home")
    torch.save({"model": STATE, "x": hidden}, tmp_path / "cat.pth")
    with pytest.raises(WeightsError, match=r"its pickle uses pathlib\.Path"):
        load_file(tmp_path / "cat.pth")
    torch.save({"model": STATE, "x": Call(builtins.getattr, "text", "upper")}, tmp_path / "cat.pth")
    assert not callable(load_file(tmp_path / "cat.pth")["x"])


def test_attributes_of_a_pickled_dict_hide_no_methods(tmp_path: Path) -> None:
    state = OrderedDict(STATE)
    state.get = state.values = "hidden"  # type: ignore[assignment, method-assign]
    torch.save({"model": state}, tmp_path / "cat.pth")
    loaded = load_file(tmp_path / "cat.pth")["model"]
    assert type(loaded) is dict
    assert same(loaded, STATE)


def test_file_kind_is_detected_by_bytes_not_by_name(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "cat.pth")
    torch.save(STATE, tmp_path / "cat.safetensors")
    assert same(load_file(tmp_path / "cat.pth"), STATE)
    assert same(load_file(tmp_path / "cat.safetensors"), STATE)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"cat\.pth: cannot be read: No such file"),
        (struct.pack("<Q", 2**62) + b"{}", "not readable as tensors only: SafetensorError"),
        (bytes(range(128, 256)) * 3, "not readable as tensors only: [A-Z]"),
    ],
)
def test_non_checkpoint_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "cat.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        load_file(tmp_path / "cat.pth")


@pytest.mark.parametrize("name", MESSAGES)
def test_wrong_weights_file_error_says_what_to_do(tmp_path: Path, name: str) -> None:
    write_wrong_file(name, tmp_path / "cat.pth")
    with pytest.raises(WeightsError, match=rf"^{tmp_path}/cat\.pth: {MESSAGES[name]}") as caught:
        load_file(tmp_path / "cat.pth")
    assert "weights_only" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_file_with_pickle_protocol_3_is_read(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "cat.pth", pickle_protocol=3)
    assert same(load_file(tmp_path / "cat.pth"), STATE)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("damaged")
    save_official(folder / "legacy.pth", STATE, is_legacy=True)
    save_official(folder / "zip.pth", STATE)
    save_file(STATE, folder / "cat.safetensors")
    return {path.name: path for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["legacy.pth", "zip.pth", "cat.safetensors"])
@settings(max_examples=60)
@given(data=st.data())
def test_damaged_file_never_gives_a_traceback(
    damaged: dict[str, Path], name: str, data: st.DataObject
) -> None:
    content = bytearray(damaged[name].read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(1, len(content)))]
    path = damaged[name].with_name("copy")
    path.write_bytes(content)
    with suppress(WeightsError):
        assert type(load_file(path)) is dict


def test_file_is_written_completely_or_not_changed(tmp_path: Path) -> None:
    target = tmp_path / "out"
    write_atomically(target, b"first")
    broken: Any = [b"not bytes"]
    with pytest.raises(TypeError):
        write_atomically(target, broken)
    assert target.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [target]
