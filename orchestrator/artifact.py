"""What the store holds about finished work: Ref, File, Artifact, Metric, Deviation, Manifest, their
JSON. No I/O."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue

from orchestrator.errors import IntegrityError

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def _inside(path: str) -> str:
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or not pure.parts or str(pure) != path:
        raise ValueError("not a plain relative path")
    return path


RelativePath = Annotated[str, AfterValidator(_inside)]


class Value(BaseModel):
    """An immutable value with a JSON form; unknown fields, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)


class Ref(NamedTuple):
    """A pointer to an output of another stage, written `stage.output`."""

    stage: str
    output: str

    def __str__(self) -> str:
        return f"{self.stage}.{self.output}"


class File(Value):
    """One file of an artifact; `path` is relative to the artifact's folder, `size` in bytes."""

    path: RelativePath
    sha256: Sha256
    size: Annotated[int, Field(ge=0)]


class Artifact(Value):
    """An immutable published output: its files, sorted by path."""

    files: tuple[File, ...]

    @property
    def digest(self) -> str:
        return digest_of([file.model_dump() for file in self.files])


Unit = Literal["%", "M", "G", "images/s", ""]
"""A number without a unit, such as a loss, has the empty one."""


def unit_of(name: str) -> Unit:
    """The unit of a metric, which its name says; shares say none."""
    if re.search(r"_per_s(_(fp|bf)\d+)?$", name):  # the precision may follow
        return "images/s"
    suffixes: Mapping[str, Unit] = {"loss": "", "_m": "M", "_g": "G"}
    return next((unit for suffix, unit in suffixes.items() if name.endswith(suffix)), "%")


class Metric(Value):
    """A measured value, in `unit`, over `num_samples` samples of `split`."""

    name: str
    value: float
    unit: Unit = "%"
    split: str = "val"
    num_samples: Annotated[int, Field(ge=0)] | None
    """None for what needs no samples, and where a search's best trial was stopped before its
    end."""


class Deviation(Value):
    """A param that is not as in the reference recipe."""

    used: JsonValue
    reference: JsonValue


class Manifest(Value):
    """The record that closes a stage. Its presence in the store means that the stage is done."""

    schema_version: Literal[1] = 1
    key: Sha256
    stage: str
    kind: str
    recipe: Mapping[str, JsonValue]
    """What the Key is the sha256 of: kind, version, params, seed, rerun, data, inputs."""
    params: Mapping[str, JsonValue]
    """The effective params, searched values included."""
    recipe_audit: Mapping[str, Deviation] | None = None
    """By name, each of the params that is not as in the reference recipe; None in manifests older
    than audits."""
    artifacts: Mapping[str, Artifact]
    metrics: tuple[Metric, ...]
    provenance: Mapping[str, JsonValue]

    def to_json(self) -> bytes:
        """The manifest's document, closed by the sha256 of its own content."""
        content = self.model_dump(mode="json")
        document = {**content, "sha256": digest_of(content)}
        return json.dumps(document, indent=2, sort_keys=True, allow_nan=False).encode()

    @classmethod
    def from_json(cls, document: bytes, *, where: str) -> Self:
        """Parse `document`; raises IntegrityError when it is not what `to_json` wrote. `where`
        names it there."""
        try:
            content: dict[str, Any] = json.loads(document)
            stated = content.pop("sha256", None)
            manifest = cls.model_validate(content)
        except (ValueError, TypeError, AttributeError) as err:
            raise IntegrityError(
                f"{where}: not a manifest: {err}; delete it to run the stage again"
            ) from err
        if stated != digest_of(content):
            raise IntegrityError(
                f"{where}: its content differs from its sha256; delete it to run the stage again"
            )
        return manifest


def canonical_json(value: JsonValue | Mapping[str, Any]) -> bytes:
    """One byte string for each JSON value: sorted keys, no spaces; anything else than JSON
    raises."""
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


def digest_of(value: Any) -> str:
    """sha256 (hex) of a JSON value."""
    return hashlib.sha256(canonical_json(value)).hexdigest()
