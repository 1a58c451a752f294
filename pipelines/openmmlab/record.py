"""Writes the files next to a trained model's weights: the size of the network, and the whole config
that trained it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from orchestrator.artifact import Metric, unit_of
from orchestrator.contract import Event, StageContext
from pipelines.openmmlab.counting import NetworkSize, count_built
from pipelines.openmmlab.library import Scope
from pipelines.openmmlab.params import SIZES, FinetuneParams
from pipelines.openmmlab.recipe import Config

COMPLEXITY_FILE = "complexity.json"
RESOLVED_FILE = "resolved.json"


@dataclass(frozen=True)
class Record:
    """The network's size, as `count_complexity` returns it, and the whole config for mmengine's
    Runner (`resolved`)."""

    complexity: Mapping[str, JsonValue]
    resolved: Config

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The size of the network; empty on ranks other than 0, which do not count."""
        return sizes_of(self.complexity)

    def write(self, directory: Path, context: StageContext) -> None:
        """Writes two files. Names such as `<data>` replace the folders of this machine."""
        params: FinetuneParams = context.params
        folders = {"work_dir": context.work_dir, "data": params.data, **context.inputs}
        folder_names = {str(folder): f"<{name}>" for name, folder in folders.items()}
        _write(directory / COMPLEXITY_FILE, self.complexity)
        _write(directory / RESOLVED_FILE, _without_folders(self.resolved, folder_names))


def sizes_of(complexity: Mapping[str, JsonValue]) -> tuple[Metric, ...]:
    """Metrics for the SIZES in `complexity`, a result of `count_complexity`."""
    values = {name: complexity.get(name) for name in SIZES}
    return tuple(
        Metric(name=name, value=value, unit=unit_of(name), num_samples=None)
        for name, value in values.items()
        if isinstance(value, float)
    )


@dataclass(frozen=True)
class Counter:
    """How a kind counts the networks of its own methods."""

    image_size: tuple[int, int]
    """Height and width in pixels for which the published FLOPs hold."""
    count: Callable[[Config], NetworkSize]
    """Maps a model config to its size."""


def make_record(context: StageContext, scope: Scope, resolved: Config, counter: Counter) -> Record:
    """The record of a training that is about to start. Rank 0 counts the network and logs the
    result."""
    if context.rank != 0:
        return Record({}, resolved)
    complexity = count_complexity(context.params, resolved["model"], scope, counter)
    context.emit(Event(f"network: {_line(complexity)}"))
    return Record(complexity, resolved)


def count_complexity(
    params: FinetuneParams, model: Config, scope: Scope, counter: Counter
) -> dict[str, JsonValue]:
    """Parameters in millions, and multiply-accumulates in billions at the published image size.

    For the model of a config file only the parameters are counted, because its parts are unknown.
    """
    model = {
        **model,
        "backbone": {
            name: value for name, value in model["backbone"].items() if name != "checkpoint"
        },
    }
    height, width = counter.image_size
    is_own = params.config is None
    counted = counter.count(model) if is_own else NetworkSize(count_built(scope, model), None)
    flops_g = None if counted.macs is None else round(counted.macs / 1e9, 2)
    return {
        "params_m": round(counted.params / 1e6, 2),
        "flops_g": flops_g,
        "height": height,
        "width": width,
    }


def _line(complexity: Mapping[str, JsonValue]) -> str:
    params = f"{complexity['params_m']} M parameters"
    if complexity["flops_g"] is None:
        return params
    pixels = f"{complexity['height']}x{complexity['width']} pixels"
    return f"{params}, {complexity['flops_g']} G multiply-accumulates on {pixels}"


def _without_folders(value: Any, folder_names: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_folders(entry, folder_names) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_folders(entry, folder_names) for entry in value]
    if isinstance(value, str):
        # folders inside another folder first
        for path, name in sorted(folder_names.items(), reverse=True):
            value = value.replace(path, name)
    return value


def _write(path: Path, document: Mapping[str, JsonValue]) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
