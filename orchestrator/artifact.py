"""The values that the store keeps about finished work, and their JSON. No I/O.

They are Ref, File, Artifact, Metric, Deviation and Manifest."""

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
    """An immutable value with a JSON form. Unknown fields, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)


class Ref(NamedTuple):
    """A pointer to an output of another stage, written `stage.output`."""

    stage: str
    output: str

    def __str__(self) -> str:
        return f"{self.stage}.{self.output}"


class File(Value):
    """One file of an artifact. `path` is relative to the artifact's folder, `size` is in bytes."""

    path: RelativePath
    sha256: Sha256
    size: Annotated[int, Field(ge=0)]


class Artifact(Value):
    """An immutable published output: its files, sorted by path."""

    files: tuple[File, ...]

    @property
    def digest(self) -> str:
        return digest_of([file.model_dump() for file in self.files])


CODE_PATCH = "code_patch"
"""The artifact of a manifest with the local changes of the code that ran."""
JOB_FILE = "job_file"
"""The artifact of a manifest with the job file as written, and the files that it extends."""
RECORDS = frozenset({CODE_PATCH, JOB_FILE})

Unit = Literal["%", "M", "G", "images/s", ""]
"""The unit of a metric. Numbers without a unit, such as a loss, have the empty one."""


def unit_of(name: str) -> Unit:
    """Return the unit of a metric from the suffix of its name. Without a known suffix it is `%`."""
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
    """None if the metric needs no samples, or if a search's best trial was stopped early."""


class Deviation(Value):
    """A param that differs from the reference recipe."""

    used: JsonValue
    reference: JsonValue


class Manifest(Value):
    """The record of a finished stage. Its presence in the store means that the stage is done."""

    schema_version: Literal[1] = 1
    key: Sha256
    stage: str
    kind: str
    recipe: Mapping[str, JsonValue]
    """The Key is the sha256 of this: kind, version, params, seed, rerun, data, inputs."""
    params: Mapping[str, JsonValue]
    """The effective params, including searched values."""
    recipe_audit: Mapping[str, Deviation] | None = None
    """The params that differ from the reference recipe, by name. None in manifests older than
    audits."""
    artifacts: Mapping[str, Artifact]
    """The stage's outputs by name, and the artifacts of RECORDS."""
    metrics: tuple[Metric, ...]
    provenance: Mapping[str, JsonValue]

    @property
    def outputs(self) -> Mapping[str, Artifact]:
        """The artifacts that the stage made, without those that record where they come from."""
        return {name: art for name, art in self.artifacts.items() if name not in RECORDS}

    def to_json(self) -> bytes:
        """Return the manifest as JSON, with the sha256 of its own content."""
        content = self.model_dump(mode="json")
        document = {**content, "sha256": digest_of(content)}
        return json.dumps(document, indent=2, sort_keys=True, allow_nan=False).encode()

    @classmethod
    def from_json(cls, document: bytes, *, where: str) -> Self:
        """Parse `document`. Raises IntegrityError, naming `where`, if `to_json` did not write
        it."""
        try:
            content: dict[str, Any] = json.loads(document)
            stated = content.pop("sha256", None)
            manifest = cls.model_validate(content)
            digest = digest_of(content)
        # A few kB of brackets are nested deeper than Python's parser goes.
        except (ValueError, TypeError, AttributeError, RecursionError) as err:
            raise IntegrityError(
                f"{where}: not a manifest: {err}; delete it to run the stage again"
            ) from err
        if stated != digest:
            raise IntegrityError(
                f"{where}: its content differs from its sha256; delete it to run the stage again"
            )
        return manifest


def canonical_json(value: JsonValue | Mapping[str, Any]) -> bytes:
    """Return the only byte string of a JSON value: sorted keys, no spaces. Raises for values that
    are not JSON."""
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


def digest_of(value: Any) -> str:
    """Return the sha256 (hex) of a JSON value."""
    return hashlib.sha256(canonical_json(value)).hexdigest()
