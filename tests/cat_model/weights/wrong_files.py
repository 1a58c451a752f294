"""Files that users pass by mistake instead of a checkpoint, and the error message for each."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from safetensors.torch import save
from torch import Tensor, nn

STATE: Mapping[str, Tensor] = {"ape": torch.zeros(1, 4, 8), "norm.bias": torch.ones(8)}

MESSAGES = {
    "empty": "is empty; copy or download it again",
    "folder": "is a folder; give the checkpoint file in it",
    "lfs_pointer": "is a Git LFS pointer, not the file that it points to; run `git lfs pull`",
    "web_page": "is a web page, which begins '<!DOCTYPE html> <html>.*'; download the file itself",
    "s3_error": "is XML, which begins '<.xml .*AccessDenied.*'; give the checkpoint",
    "json": r"is JSON, which begins '{\"weight_map\": {.*'; give the checkpoint",
    "text": "is text, which begins 'epoch 3'; give the checkpoint",
    "utf16": "is text, which begins 'epoch 3'; give the checkpoint",
    "tensorflow_list": "is the list of a TensorFlow checkpoint",
    "tensorflow_index": "is the index of a TensorFlow checkpoint",
    "tar": "is a tar archive; unpack it",
    "gzip": "is compressed with gzip; unpack it",
    "zip": r"is a zip archive of 'weights/cat\.pth'; give the checkpoint",
    "npz": r"is a NumPy archive \(\.npz\); save its arrays as tensors",
    "npy": r"is a NumPy array \(\.npy\)",
    "onnx": r"is an ONNX model; give only the weights: torch\.save\(model\.state_dict\(\), PATH\)",
    "torchscript": (
        r"is a TorchScript program; give only the weights: "
        r"torch\.save\(model\.state_dict\(\), PATH\)"
    ),
    "exported": r"is a program of torch\.export; give only the weights",
    "keras": r"is an HDF5 file \(from Keras\)",
    "image": r"is an image \(PNG\)",
    "truncated_zip": (
        r"is a file of torch\.save, or another zip archive, that is cut off or "
        r"damaged"
    ),
    "truncated_safetensors": r"is a \.safetensors file that is cut off or damaged",
    "truncated_header": r"is a \.safetensors file that is cut off or damaged",
    **{
        f"protocol_{protocol}{suffix}": f"is a file of torch.save with pickle protocol {protocol}, "
        "and only protocols up to 3 can be read without running code of the file; save it again"
        for protocol in (4, 5)
        for suffix in ("", "_legacy")
    },
    **{
        f"plain_pickle_{protocol}": (
            f"is a pickle of protocol {protocol} that torch.save did not write; give only"
        )
        for protocol in (2, 3, 4, 5)
    },
}
"""Pattern of the message after the path, by name."""


def write_wrong_file(name: str, path: Path) -> None:
    """Writes the file (a folder for `folder`) of MESSAGES to `path`."""
    if name == "folder":
        path.mkdir()
    else:
        path.write_bytes(_content(name))


def _content(name: str) -> bytes:
    kind, _, number = name.removesuffix("_legacy").rpartition("_")
    if kind == "protocol":
        return _saved(protocol=int(number), is_legacy=name.endswith("_legacy"))
    if kind == "plain_pickle":
        return pickle.dumps({"ape": np.zeros(3), "norm.bias": torch.ones(3)}, protocol=int(number))
    return {**_texts(), **_archives(), **_binaries()}[name]


def _texts() -> dict[str, bytes]:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 149200000\n"
    return {
        "empty": b"",
        "lfs_pointer": pointer.encode(),
        "web_page": b"<!DOCTYPE html>\n<html><title>Not Found</title></html>",
        "s3_error": b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>',
        "json": b'{"weight_map": {"ape": "model-00001-of-00002.safetensors"}}',
        "text": b"epoch 3\n",
        "utf16": "epoch 3\n".encode("utf-16"),
        "tensorflow_list": b'model_checkpoint_path: "model.ckpt-300"\n',
        "tensorflow_index": b"\x00\x00\x02\x08\x01\x1a"
        + b"\x00" * 60
        + bytes.fromhex("57fb808b247547db"),
    }


def _archives() -> dict[str, bytes]:
    tar, zipped, npz, npy = (io.BytesIO() for _ in range(4))
    with tarfile.open(fileobj=tar, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("cat.pth"))
    with zipfile.ZipFile(zipped, "w") as other:
        other.writestr("weights/cat.pth", _saved())
    np.savez(npz, ape=np.zeros(3))
    np.save(npy, np.zeros(3))
    return {
        "tar": tar.getvalue(),
        "gzip": gzip.compress(_saved()),
        "zip": zipped.getvalue(),
        "npz": npz.getvalue(),
        "npy": npy.getvalue(),
        "truncated_zip": _saved()[:-200],
    }


def _binaries() -> dict[str, bytes]:
    graph = onnx.helper.make_graph([], "cat", [], [])
    safetensors = save(dict(STATE))
    return {
        "onnx": onnx.helper.make_model(graph, producer_name="pytorch").SerializeToString(),
        "torchscript": _scripted(),
        "exported": _exported(),
        "keras": b"\x89HDF\r\n\x1a\n" + b"\x00" * 40,
        "image": b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR",
        "truncated_safetensors": safetensors[:-20],
        "truncated_header": safetensors[:40],
    }


def _saved(*, protocol: int = 2, is_legacy: bool = False) -> bytes:
    file = io.BytesIO()
    torch.save(
        dict(STATE), file, pickle_protocol=protocol, _use_new_zipfile_serialization=not is_legacy
    )
    return file.getvalue()


def _scripted() -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), file)
    return file.getvalue()


def _exported() -> bytes:
    file = io.BytesIO()
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),)), file)
    return file.getvalue()
