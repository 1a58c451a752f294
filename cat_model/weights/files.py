"""Reads single checkpoint files without running any of their code, and writes files atomically.

A torch file is a pickle, and a pickle may call any function. Torch's restricted unpickler, which
accepts tensors and plain values, reads these files. Released checkpoints also hold objects of other
libraries. Inert placeholders replace the known ones; any other is refused by name.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import struct
import threading
import warnings
from collections import OrderedDict
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cat_model.errors import WeightsError
from cat_model.weights.description import KEY
from cat_model.weights.file_kinds import describe_file


class _Items:
    """Replaces a class of mappings or of plain attributes by an OrderedDict of its items.

    The unpickler sets items only on exact dicts, so an instance of a class of ours would not work.
    """

    def __new__(cls, *_: object) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        return OrderedDict()


class _Opaque:
    """Replaces any other class or function: accepts any arguments and keeps nothing."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


_STAND_INS = {
    "yacs.config.CfgNode": _Items,  # the official files' `config`
    "argparse.Namespace": _Items,  # `args` of timm's training
    # numbers and arrays of numpy 1 and 2, such as the best accuracy so far
    **{
        f"numpy.{core}.multiarray.{name}": _Opaque
        for core in ("core", "_core")
        for name in ("scalar", "_reconstruct")
    },
    "numpy.dtype": _Opaque,
    "numpy.ndarray": _Opaque,
    # the log of mmengine's training; its pickle names methods with getattr, which is not called
    # either
    "mmengine.logging.history_buffer.HistoryBuffer": _Opaque,
    "builtins.getattr": _Opaque,
}
_ALLOWED: list[Any] = [(stand_in, name) for name, stand_in in _STAND_INS.items()]
_allowance = threading.Lock()  # torch keeps its allow-list for the whole process

_REFUSED = re.compile(r"GLOBAL (\S+)")
_UNPICKLERS_WORDS = re.compile(r"WeightsUnpickler error:\s*(\S[^\n]*)")
_UNREADABLE = (
    *(EOFError, RuntimeError, SafetensorError, pickle.UnpicklingError),
    *(
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
        AssertionError,
        ArithmeticError,
        MemoryError,
        struct.error,
    ),
)
"""Errors that safetensors and torch's unpickler raise on files of another kind; arbitrary data can
cause the errors in the second line."""


def load_file(path: Path) -> dict[str, Any]:
    """The content of a torch file (zip or legacy) or a .safetensors file, recognised by its first
    bytes.

    A .safetensors file that describes its network is returned as `state_dict` and `meta`, like our
    torch files. Dicts and tensors are plain ones, not subclasses. Raises WeightsError.
    """
    try:
        content = _load_safetensors(path) if _is_safetensors(path) else _plain(_load_torch(path))
    except (OSError, *_UNREADABLE) as err:
        raise WeightsError(f"{path}: {_reason(path, err)}") from err
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: holds a {type(content).__name__}, not a state_dict")
    return content


def load_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file. Raises WeightsError."""
    try:
        tensors, _ = _open_safetensors(path)
    except (OSError, SafetensorError) as err:
        raise WeightsError(f"{path}: {_reason(path, err, wanted='safetensors')}") from err
    return tensors


def write_atomically(path: Path, content: bytes) -> str:
    """Writes all of `content` to `path` and returns its sha256; an OSError leaves `path` as it
    was."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return sha256(content).hexdigest()


def _is_safetensors(path: Path) -> bool:
    """Whether the file begins with eight bytes of length and a JSON header."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def _load_safetensors(path: Path) -> dict[str, Any]:
    tensors, metadata = _open_safetensors(path)
    if KEY not in metadata:
        return tensors
    return {"state_dict": tensors, "meta": {KEY: json.loads(metadata[KEY])}}


def _open_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118 - no mapping


def _load_torch(path: Path) -> object:
    with _allowance, torch.serialization.safe_globals(_ALLOWED), warnings.catch_warnings():
        # warnings about pickle protocols other than torch's: such files are read, or refused with a
        # reason
        warnings.filterwarnings("ignore", message="Detected pickle protocol")
        warnings.filterwarnings(
            "ignore", message="'torch.load' received a zip file that looks like a TorchScript"
        )
        return torch.load(path, map_location="cpu", weights_only=True)


def _plain(value: Any) -> Any:
    """`value` with plain dicts and bare tensors: a pickle can set attributes that hide methods."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in dict.items(value)}
    return Tensor.detach(value) if isinstance(value, Tensor) else value


def _reason(path: Path, err: Exception, *, wanted: str = "tensors only") -> str:
    """Why `path` cannot be read: the kind of file if it is recognised, else `err` without torch's
    advice on pickles."""
    try:
        kind = describe_file(path)
    except OSError as unreadable:
        return f"cannot be read: {unreadable.strerror or unreadable}"
    if kind is not None:
        return f"{kind} ({err})" if kind.startswith("is a .safetensors") else kind
    if isinstance(err, OSError) and err.strerror is not None:
        return f"cannot be read: {err.strerror}"
    if match := _REFUSED.search(str(err)):
        name = match[1] if "." in match[1] else f"builtins.{match[1]}"
        return (
            f"its pickle uses {name}, which is neither a tensor nor a plain value; none of its "
            "code was run; save only the weights: torch.save(model.state_dict(), PATH)"
        )
    return f"not readable as {wanted}: {type(err).__name__}{_first_words(err)}"


def _first_words(err: Exception) -> str:
    if isinstance(err, pickle.UnpicklingError):
        match = _UNPICKLERS_WORDS.search(str(err))
        return f" {match[1]}" if match else ""
    line = (str(err).strip().splitlines() or [""])[0]
    return "" if "weights_only" in line else f" {line}"
