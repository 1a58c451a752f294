"""Describes a file that is not a readable checkpoint, by its first bytes, and says what to do about
it."""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path

_HEAD_BYTES = 4096

_MAGIC = (
    (b"\x1f\x8b", "is compressed with gzip; unpack it first"),
    (b"BZh", "is compressed with bzip2; unpack it first"),
    (b"\xfd7zXZ\x00", "is compressed with xz; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd; unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "is a 7z archive; unpack it, and give the checkpoint in it"),
    (b"Rar!\x1a\x07", "is a RAR archive; unpack it, and give the checkpoint in it"),
    (
        b"\x89HDF\r\n\x1a\n",
        "is an HDF5 file (from Keras); save the tensors with torch.save or as .safetensors",
    ),
    (
        b"\x93NUMPY",
        "is a NumPy array (.npy); save all tensors by name in one file with torch.save",
    ),
    (b"GGUF", "is a GGUF file; give a torch.save file or a .safetensors file"),
    (b"\x89PNG", "is an image (PNG); give the checkpoint"),
    (b"\xff\xd8\xff", "is an image (JPEG); give the checkpoint"),
    (b"%PDF-", "is a PDF document; give the checkpoint"),
)
_LFS_POINTER = b"version https://git-lfs.github.com/spec/v1"
_TORCH_MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")
"""Found in the first pickle of files that torch.save wrote before it used zips."""
_TENSORFLOW_MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
_SAFE_PROTOCOL = 3
"""Highest pickle protocol that torch's restricted unpickler reads."""
_CUT_OFF = "is cut off or damaged; copy or download it again"
_OURS = "give only the weights: torch.save(model.state_dict(), PATH), or a .safetensors file"


def describe_file(path: Path) -> str | None:
    """What is wrong with `path`, which could not be read, and what to do, as the text after its
    name. None if the kind is unknown, or a torch file whose fault is not visible from outside.

    Raises OSError.
    """
    if path.is_dir():
        return "is a folder; give the checkpoint file in it"
    if not path.is_file():
        return None if not path.exists() else "is not a regular file; give a checkpoint file"
    size = path.stat().st_size
    if size == 0:
        return "is empty; copy or download it again"
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
        file.seek(max(0, size - 8))
        tail = file.read()
    return (
        _describe_container(path, head, size=size)
        or _describe_bytes(head, tail)
        or _describe_text(head)
    )


def _describe_container(path: Path, head: bytes, *, size: int) -> str | None:
    """Describes formats that a checkpoint may have: zips, safetensors, pickles."""
    if head.startswith(b"PK\x03\x04"):
        return _describe_zip(path)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < max(size, 2**32):
        return f"is a .safetensors file that {_CUT_OFF}"
    if not head.startswith(b"\x80"):
        return None
    protocol = head[1] if len(head) > 1 else 0
    if _TORCH_MAGIC in head[:64]:
        return _too_new(protocol)
    if protocol > pickle.HIGHEST_PROTOCOL:
        return None
    return f"is a pickle of protocol {protocol} that torch.save did not write; {_OURS}"


def _describe_zip(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            pickled = next((name for name in names if name.endswith("/data.pkl")), None)
            protocol = 0 if pickled is None else _protocol_of(archive.open(pickled).read(2))
    except (OSError, RuntimeError, EOFError, NotImplementedError, zipfile.BadZipFile):
        return f"is a file of torch.save, or another zip archive, that {_CUT_OFF}"
    if any(name.endswith("/constants.pkl") for name in names):
        return f"is a TorchScript program; {_OURS}"
    if pickled is not None:
        return _too_new(protocol)
    if any(
        name.endswith(("/archive_format", "/serialized_exported_program.json"))
        for name in ["/" + n for n in names]
    ):
        return f"is a program of torch.export; {_OURS}"
    if names and all(name.endswith(".npy") for name in names):
        return "is a NumPy archive (.npz); save its arrays as tensors by name with torch.save"
    listed = ", ".join(repr(name[:80]) for name in names[:3]) + (", ..." if len(names) > 3 else "")
    return f"is a zip archive of {listed or 'nothing'}; give the checkpoint, not an archive of it"


def _protocol_of(opening: bytes) -> int:
    return opening[1] if opening[:1] == pickle.PROTO else 0


def _too_new(protocol: int) -> str | None:
    """Describes a pickle protocol that is too new; None for one that can be read, where the file
    has another fault."""
    if protocol <= _SAFE_PROTOCOL:
        return None
    return (
        f"is a file of torch.save with pickle protocol {protocol}, and only protocols up to "
        f"{_SAFE_PROTOCOL} can be read without running code of the file; save it again without "
        "`pickle_protocol`, or as .safetensors"
    )


def _describe_bytes(head: bytes, tail: bytes) -> str | None:
    for magic, text in _MAGIC:
        if head.startswith(magic):
            return text
    if head[257:262] == b"ustar":
        return "is a tar archive; unpack it, and give the checkpoint in it"
    if tail == _TENSORFLOW_MAGIC:
        return (
            "is the index of a TensorFlow checkpoint; save the tensors with torch.save or as "
            ".safetensors"
        )
    # An ONNX ModelProto begins with its version, then its producer or its graph.
    if re.match(rb"\x08[\x01-\x20](\x12|:|\x1a)", head):
        return f"is an ONNX model; {_OURS}"
    return None


def _describe_text(head: bytes) -> str | None:
    """Describes a text file and quotes its beginning, which may be a server's error message."""
    text = _as_text(head)
    if text is None:
        return None
    beginning = repr(" ".join(text.split())[:80])
    if head.startswith(_LFS_POINTER):
        return (
            "is a Git LFS pointer, not the file that it points to; run `git lfs pull`, or "
            "download the file"
        )
    if text.lstrip().lower().startswith(("<!doctype html", "<html")):
        return (
            f"is a web page, which begins {beginning}; download the file itself, not the page "
            "about it"
        )
    if text.startswith("model_checkpoint_path:"):
        return (
            "is the list of a TensorFlow checkpoint; save the tensors with torch.save or as "
            ".safetensors"
        )
    return f"is {_kind_of_text(text)}, which begins {beginning}; give the checkpoint"


def _kind_of_text(text: str) -> str:
    if text.lstrip().startswith("<"):
        return "XML"
    return "JSON" if text.lstrip().startswith(("{", "[")) else "text"


def _as_text(head: bytes) -> str | None:
    """`head` as text; None for binary data."""
    encoding = "utf-16" if head.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    text = head.decode(encoding, errors="replace")
    broken = sum(
        not (character.isprintable() or character.isspace()) or character == "\ufffd"
        for character in text
    )
    return text if broken <= 1 else None  # the last character may be cut off
