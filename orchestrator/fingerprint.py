"""Recipes and Keys. A recipe is everything that determines a stage's result, a Key is its sha256.
Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue

from orchestrator.artifact import digest_of
from orchestrator.spec import Job, Stage, template_params

Recipe = Mapping[str, JsonValue]


@dataclass(frozen=True)
class KeyInputs:
    """The parts of a recipe that are not in the job file."""

    data: str
    """The data's fingerprint."""
    rerun: int
    """The number of times that the stage was forced to run again."""
    input_keys: Mapping[str, str]
    """The Keys of the stages that this one needs, by name."""
    file_digests: Mapping[str, str]
    """The sha256 of each file from outside the job, by field: inputs, and files that the params
    name."""


def key_of(recipe: Recipe) -> str:
    return digest_of(dict(recipe))


def recipe_of(job: Job, stage: Stage, key_inputs: KeyInputs) -> Recipe:
    """Return everything that determines the stage's result.

    Its name, its resources and anything that only changes the speed are left out.
    """
    edges = {**stage.inputs, **({"params_from": stage.params_from} if stage.params_from else {})}
    inputs: dict[str, JsonValue] = {
        name: {"key": key_inputs.input_keys[ref.stage], "output": ref.output}
        for name, ref in edges.items()
    }
    inputs |= {name: {"sha256": digest} for name, digest in key_inputs.file_digests.items()}
    measured = stage.kind.evaluates
    return {
        **({"measures": {"kind": measured.name, "version": measured.version}} if measured else {}),
        "kind": stage.kind.name,
        "version": stage.kind.version,
        "params": _params_in_key(job, stage),
        "seed": stage.seed,
        "rerun": key_inputs.rerun,
        "data": key_inputs.data,
        "inputs": inputs,
    }


def _params_in_key(job: Job, stage: Stage) -> dict[str, Any]:
    search = stage.search
    if search is None:
        searched = searched_names(job, stage)
        return _without(stage.params.in_key(searched=searched), searched)
    target = job.stages[search.of].kind
    template = template_params(job, stage).in_key(searched=search.space)
    own = search.in_key()
    return {
        **{name: value for name, value in own.items() if name not in ("of", "overrides")},
        "template": {
            "kind": target.name,
            "version": target.version,
            "params": _without(template, search.space),
        },
    }


def searched_names(job: Job, stage: Stage) -> tuple[str, ...]:
    """Dotted paths of the params from `params_from`, which override the stage's own."""
    if stage.params_from is None:
        return ()
    search = job.stages[stage.params_from.stage].search
    assert search is not None, "the spec allows only searches in params_from"
    return tuple(search.space)


def _without(params: dict[str, Any], paths: Iterable[str]) -> dict[str, Any]:
    """Return `params` without the dotted `paths`."""
    for path in paths:
        head, _, rest = path.partition(".")
        params = {
            name: _without(value, [rest]) if name == head else value
            for name, value in params.items()
            if name != head or rest
        }
    return params
