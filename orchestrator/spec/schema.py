"""The JSON Schema of job files, for editors. Fields, types, ranges and descriptions come from the
models."""

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
    "description": "The job file that this one overrides, relative to the folder of this one.",
}
MATRIX = {
    "description": (
        "Makes one stage for each combination of the fields' values, or for each mapping of a list."
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
    """Return the JSON Schema (2020-12) of a job file with stages of `kinds`.

    It checks single fields, not whether stages fit together.
    """
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
        # a file that extends another one need not be complete
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
    """Return the docstring of each own or inherited field, one line per paragraph.

    Pydantic could collect them whenever a model is defined, but that adds 0.2 s to every command.
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
    """Add the docstrings of fields to the definitions of their models."""
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
        # a matrix or a search may provide a required field
        "anyOf": [
            {"required": params.get("required", [])},
            {"required": ["matrix"]},
            {"required": ["params_from"]},
        ],
    }


def _of_any_task(params: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The fields that an evaluation with `task` may have: the params of every kind.

    Only the models check their types.
    """
    fields = {name: field for one in params for name, field in one["properties"].items()}
    return {name: {"description": field.get("description", "")} for name, field in fields.items()}


def _if_kind(name: str) -> dict[str, Any]:
    is_kind = {"properties": {"kind": {"const": name}}, "required": ["kind"]}
    return {"if": is_kind, "then": {"$ref": f"#/$defs/{_definition(name)}"}}


def _definition(name: str) -> str:
    return f"stage-{name}"
