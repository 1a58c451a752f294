"""The JSON Schema of job files, for editors: fields, types, ranges and descriptions, all taken from
the models."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from textwrap import dedent
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from orchestrator.contract import Kind, Params
from orchestrator.spec.kinds.evaluate import EVALUATE, evaluation_of
from orchestrator.spec.kinds.tune import TUNE
from orchestrator.spec.resolve.draft import STAGE_NAME, Common
from orchestrator.spec.resolve.job import JobFields

EXTENDS = {
    "type": "string",
    "description": "A job file that this one is laid over, against the folder of this one.",
}
MATRIX = {
    "description": (
        "The stage becomes one for each combination of values of the fields, or for "
        "each mapping of a list."
    ),
    "anyOf": [
        {
            "type": "object",
            "additionalProperties": {"type": "array", "minItems": 1},
            "minProperties": 1,
        },
        {"type": "array", "items": {"type": "object", "minProperties": 1}, "minItems": 1},
    ],
}


def job_schema(kinds: Mapping[str, Kind]) -> dict[str, Any]:
    """JSON Schema (2020-12) of a job file with stages of `kinds`. It knows fields one by one, not
    how stages fit."""
    known = {**kinds, TUNE.name: TUNE, EVALUATE.name: EVALUATE}
    measuring = {
        name: evaluation_of(kind).params for name, kind in kinds.items() if kind.evaluation
    }
    models: list[type[BaseModel]] = [
        JobFields,
        Common,
        *dict.fromkeys([*(kind.params for kind in known.values()), *measuring.values()]),
    ]
    _, document = models_json_schema(
        [(model, "validation") for model in models], ref_template="#/$defs/{model}"
    )
    definitions = document["$defs"]
    _describe(definitions)
    fields, common = definitions.pop("JobFields"), definitions.pop("Common")
    params = {name: definitions.pop(kind.params.__name__) for name, kind in known.items()}
    of_tasks = [definitions.pop(model.__name__, params[name]) for name, model in measuring.items()]
    params[EVALUATE.name]["properties"] |= _of_any_task(of_tasks)
    stages = {name: _stage(name, its_params, common) for name, its_params in params.items()}
    stage_names = {"pattern": f"^{STAGE_NAME.pattern}$"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A job of orchestrator",
        "type": "object",
        "properties": {**fields["properties"], "extends": EXTENDS},
        "additionalProperties": False,
        # what a file lays over another one need not be whole
        "if": {"required": ["extends"]},
        "then": {"properties": {"stages": {"type": "object", "propertyNames": stage_names}}},
        "else": {
            "required": fields["required"],
            "properties": {
                "stages": {
                    "type": "object",
                    "propertyNames": stage_names,
                    "additionalProperties": {
                        "type": "object",
                        "required": ["kind"],
                        "properties": {"kind": {"enum": list(stages)}},
                        "allOf": [_if_kind(name) for name in stages],
                    },
                }
            },
        },
        "$defs": {**definitions, **{_definition(name): stage for name, stage in stages.items()}},
    }


def field_docstrings(model: type[BaseModel]) -> dict[str, str]:
    """The docstring of each field, its own or inherited, with a line for each paragraph.

    Pydantic would read them whenever a model is defined, which costs every command a fifth of a
    second.
    """
    found: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        if issubclass(cls, BaseModel) and cls is not BaseModel:
            (definition,) = ast.parse(dedent(inspect.getsource(cls))).body
            assert isinstance(definition, ast.ClassDef)
            found |= dict(_docstrings_below_names(definition))
    return found


def _docstrings_below_names(definition: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for field, below in pairwise(definition.body):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(
                value=ast.Constant(value=str(docstring))
            ):
                text = re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.cleandoc(docstring))
                yield name, re.sub(r"\bNone\b", "null", text)  # as YAML writes it


def _describe(definitions: Mapping[str, Any]) -> None:
    """Put the docstrings of fields into the definitions of their models."""
    for model in _subclasses(Params):
        properties = definitions.get(model.__name__, {}).get("properties", {})
        for name, docstring in field_docstrings(model).items():
            if name in properties:
                properties[name] = dict(
                    sorted({**properties[name], "description": docstring}.items())
                )


def _subclasses(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for one in model.__subclasses__():
        yield one
        yield from _subclasses(one)


def _stage(name: str, params: dict[str, Any], common: dict[str, Any]) -> dict[str, Any]:
    kind = {
        "const": name,
        "description": " ".join(params.get("description", "").partition("\n\n")[0].split()),
    }
    return {
        "properties": {
            **common["properties"],
            "kind": kind,
            "matrix": MATRIX,
            **params["properties"],
        },
        "additionalProperties": False,
        # an axis of a matrix, or a search, may bring a field
        "anyOf": [
            {"required": params.get("required", [])},
            {"required": ["matrix"]},
            {"required": ["params_from"]},
        ],
    }


def _of_any_task(params: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """What an evaluation with `task` may contain: the params of each kind, whose types are left to
    the models."""
    fields = {name: field for one in params for name, field in one["properties"].items()}
    return {name: {"description": field.get("description", "")} for name, field in fields.items()}


def _if_kind(name: str) -> dict[str, Any]:
    is_kind = {"properties": {"kind": {"const": name}}, "required": ["kind"]}
    return {"if": is_kind, "then": {"$ref": f"#/$defs/{_definition(name)}"}}


def _definition(name: str) -> str:
    return f"stage-{name}"
