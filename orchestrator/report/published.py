"""The published numbers of CAT: the rows of `published.yaml`, each with the recipe by which it was
got."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Annotated

from pydantic import Field, JsonValue
from ruamel.yaml import YAML

from orchestrator.artifact import Value


class PublishedRow(Value):
    """What was published of one model or method, and what a stage must do to be a reproduction of
    it."""

    id: str
    kind: str
    """Kind of the stages that it can be compared with."""
    source: str
    """Paper, table, and the row's name there."""
    num_samples: Annotated[int, Field(ge=1)]
    """Val images behind its metrics."""
    recipe: Mapping[str, JsonValue]
    """Params that are not the defaults of the kind's params."""
    inputs: Mapping[str, str]
    """By the stage's field of role INPUT, the id of the row that the stage behind it must
    follow."""
    metrics: Mapping[str, float]
    """Scores in %, params_m in M, flops_g in G, throughput_v100 in images/s."""


class _Row(Value):
    published_as: str
    recipe: dict[str, JsonValue]
    inputs: dict[str, str] = Field(default_factory=dict)
    metrics: dict[str, float]


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
    """Every published row by its id, in the order of the paper."""
    return parse_rows(files("orchestrator.report").joinpath("published.yaml").read_text("utf-8"))


def parse_rows(text: str) -> dict[str, PublishedRow]:
    """The rows of a text such as `published.yaml`. An id that occurs twice is refused: in one table
    by YAML."""
    paper = _Paper.model_validate(YAML(typ="safe", pure=True).load(text))
    rows: dict[str, PublishedRow] = {}
    for table in paper.tables:
        assert rows.keys().isdisjoint(table.rows), (
            f"ids of {table.title} stand in a table before it"
        )
        rows |= {row_id: _row(paper, table, row_id) for row_id in table.rows}
    return rows


def _row(paper: _Paper, table: _Table, row_id: str) -> PublishedRow:
    row = table.rows[row_id]
    return PublishedRow(
        id=row_id,
        kind=table.kind,
        source=f"{paper.source}, {table.title}, {row.published_as}",
        num_samples=table.num_samples,
        recipe=row.recipe,
        inputs=row.inputs,
        metrics=row.metrics,
    )
