"""The published numbers of CAT: the rows of `published.yaml`, each with its recipe."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Annotated

from pydantic import Field, JsonValue
from ruamel.yaml import YAML

from orchestrator.artifact import Value

OUR_METRICS = {"throughput_v100": ("images_per_s_bf16", "images_per_s_fp32")}
"""By published metric, which of ours is shown next to it where the names differ."""


class PublishedRow(Value):
    """The published numbers of one model or method, and the recipe that a reproduction must
    follow."""

    id: str
    kind: str
    """The kind of the stages that can be compared with the row."""
    paper: str
    table: str
    """The title of the table that it is in."""
    published_as: str
    """The row's name there."""
    num_samples: Annotated[int, Field(ge=1)]
    """The number of val images that the metrics were measured on."""
    recipe: Mapping[str, JsonValue]
    """Params that differ from the defaults of the kind's params."""
    inputs: Mapping[str, str]
    """The id of the row that the stage behind each input must follow, by field of role INPUT."""
    metrics: Mapping[str, float]
    """Scores in %, params_m in M, flops_g in G, throughput_v100 in images/s."""
    counted: Mapping[str, float] = Field(default_factory=dict)
    """Sizes that the published network has by our count, where the published number differs."""

    @property
    def source(self) -> str:
        """Paper, table, and the row's name there."""
        return f"{self.paper}, {self.table}, {self.published_as}"


class _Row(Value):
    published_as: str
    recipe: dict[str, JsonValue]
    inputs: dict[str, str] = Field(default_factory=dict)
    metrics: dict[str, float]
    counted: dict[str, float] = Field(default_factory=dict)


class _Table(Value):
    title: str
    kind: str
    num_samples: int
    rows: dict[str, _Row]


class _Paper(Value):
    source: str
    tables: tuple[_Table, ...]


@cache
def published_rows() -> Mapping[str, PublishedRow]:
    """Return every published row by id, in the order of the paper."""
    return parse_rows(files("orchestrator.report").joinpath("published.yaml").read_text("utf-8"))


def parse_rows(text: str) -> dict[str, PublishedRow]:
    """Parse text such as `published.yaml`. An id that occurs twice is refused; within one table,
    YAML refuses it."""
    paper = _Paper.model_validate(YAML(typ="safe", pure=True).load(text))
    rows: dict[str, PublishedRow] = {}
    for table in paper.tables:
        assert rows.keys().isdisjoint(table.rows), (
            f"ids of {table.title} are also in an earlier table"
        )
        rows |= {row_id: _row(paper, table, row_id) for row_id in table.rows}
    return rows


def _row(paper: _Paper, table: _Table, row_id: str) -> PublishedRow:
    row = table.rows[row_id]
    return PublishedRow(
        id=row_id,
        kind=table.kind,
        paper=paper.source,
        table=table.title,
        published_as=row.published_as,
        num_samples=table.num_samples,
        recipe=row.recipe,
        inputs=row.inputs,
        metrics=row.metrics,
        counted=row.counted,
    )
