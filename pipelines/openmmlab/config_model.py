"""Adapts the model of a config file to a stage: to CAT or the model's own backbone, and to the
classes of the stage's data.

Only `model` is taken from the file. Data, loaders, optimizer and schedule come from the stage's
params. The file is executed only here, in the worker.
"""

from __future__ import annotations

import ast
import copy
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator.contract import StageContext
from orchestrator.errors import JobError
from pipelines.openmmlab.backbone import ALL_MAPS
from pipelines.openmmlab.backbone_init import BackboneInit
from pipelines.openmmlab.building import build_network
from pipelines.openmmlab.config_file import BASES, MODEL, ConfigFile, read_config
from pipelines.openmmlab.library import Config as MmengineConfig
from pipelines.openmmlab.library import Scope
from pipelines.openmmlab.params import FinetuneParams
from pipelines.openmmlab.recipe import NORMALISATION, Config

CLASSLESS = frozenset({"backbone", "neck", "rpn_head"})
"""Parts whose `num_classes` is not the number of the data's classes."""
OF_PANOPTIC_HEADS = frozenset({"num_things_classes", "num_stuff_classes"})

_WEIGHTS = re.compile(r"://|\.(pth|pt|npz|bin|pkl|ckpt|safetensors)$")
"""A value that names weights, anywhere in a model."""


def make_model(
    context: StageContext, start: BackboneInit, *, scope: Scope, num_classes: int
) -> Config:
    """The model of `config`, as JSON values. Raises JobError, with the field, if the model cannot
    be adapted to the stage.

    Each rank builds the network once, because an error on only one rank would leave the others
    waiting.
    """
    params: FinetuneParams = context.params
    assert params.config is not None
    model = load_model(params.config, scope, context.work_dir)
    with _at_the_edge(params.config, "cannot be adapted to the stage"):
        try:
            model = adapted(model, start, num_classes=num_classes, device=context.device)
        except ValueError as err:
            raise JobError(f"config: {params.config}: {err}") from err
    with _at_the_edge(params.config, "its model cannot be built"):
        build_network(scope, model)
    return model


def load_model(config: str, scope: Scope, work_dir: Path) -> Config:
    """The value of `model` in the file and its bases. Executes them, and raises JobError if that
    fails."""
    folder = work_dir / "config"
    folder.mkdir(exist_ok=True)
    path = _write(read_config(config, library=scope), folder)
    with _at_the_edge(config, "fails when executed"):
        whole = MmengineConfig.fromfile(
            path,
            use_predefined_variables=False,
            use_environment_variables=False,
            import_custom_modules=False,
            lazy_import=False,
        )
        model: Config = whole[MODEL].to_dict()
    return model


@contextmanager
def _at_the_edge(config: str, fault: str) -> Iterator[None]:
    """Turns any exception of the config file, or of the parts that it names, into a JobError."""
    try:
        yield
    except JobError:
        raise
    except (Exception, SystemExit) as err:
        cause = err.args[0] if isinstance(err, KeyError) and err.args else err
        raise JobError(f"config: {config}: {fault}: {type(err).__name__}: {cause}") from err


def adapted(model: Config, start: BackboneInit, *, num_classes: int, device: str) -> Config:
    """`model` with the stage's backbone and classes. Raises ValueError; its text begins with the
    field."""
    model = copy.deepcopy(model)
    model.pop("pretrained", None)
    _check(model)
    if start.config is None:
        model["backbone"] = _kept(model["backbone"])
    else:
        maps = _maps_taken(model)
        _set_widths(model, [start.config.dims[index] for index in maps])
        model["backbone"] = (
            start.backbone if maps == ALL_MAPS else {**start.backbone, "out_indices": list(maps)}
        )
        model["data_preprocessor"] = {**model["data_preprocessor"], **NORMALISATION}
    for part, value in model.items():
        if part not in CLASSLESS:
            _set_num_classes(value, num_classes)
    for norm in _dicts(model):
        if norm.get("type") == "SyncBN" and device == "cpu":
            norm["type"] = "BN"
    return model


def _write(file: ConfigFile, folder: Path) -> Path:
    """Writes a copy of the file to `folder`, with copies of its bases, because mmengine cannot
    resolve `library::PATH` itself."""
    bases = [str(_write(base, folder)) for base in file.bases]
    tree = copy.deepcopy(file.tree)
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and any(
            getattr(t, "id", None) == BASES for t in statement.targets
        ):
            statement.value = ast.parse(repr(bases), mode="eval").body
    path = folder / f"{sum(1 for _ in folder.iterdir()):03d}_{file.path.name}"
    path.write_text(ast.unparse(tree) + "\n", encoding="utf-8")
    return path


def _check(model: Config) -> None:
    for name in ("backbone", "data_preprocessor"):
        if not isinstance(model.get(name), dict):
            raise ValueError(f"model.{name}: is missing; a detector or segmenter needs one")
    heads = {name: value for name, value in model.items() if name != "backbone"}
    for part in _dicts(heads):
        if _is_pretrained(part):
            raise ValueError(f"init_cfg {part}: a head cannot load weights from outside; remove it")
        if named := _named_weights(part):
            raise ValueError(f"{named}: a head cannot load weights from outside; remove it")
        if odd := sorted(OF_PANOPTIC_HEADS & part.keys()):
            raise ValueError(
                f"{odd[0]}: panoptic heads cannot be adapted to the data's classes; choose "
                "another model"
            )
    try:
        json.dumps(model)
    except (TypeError, ValueError) as err:
        raise ValueError(f"model: contains values that are not JSON: {err}") from err


def _kept(backbone: Config) -> Config:
    """The config's own backbone with random weights. mmengine would load other weights without
    reporting tensors that do not fit."""
    kept: Config = _at_random(backbone)
    for part in _dicts(kept):
        if named := _named_weights(part):
            raise ValueError(
                f"model.backbone: {named}: keep_backbone starts from random weights; remove it"
            )
        for name, learning in (("frozen_stages", -1), ("norm_eval", False)):
            if part.get(name, learning) != learning:
                raise ValueError(
                    f"model.backbone.{name}: {part[name]} would freeze random weights; set it to "
                    f"{learning} in a config based on this one"
                )
    return kept


def _at_random(value: Any) -> Any:
    """`value` without `pretrained` and without entries that load weights. Also drops a list of only
    such entries."""
    if isinstance(value, dict):
        own = {
            name: entry
            for name, entry in value.items()
            if name != "pretrained" and not _is_pretrained(entry)
        }
        return {name: _at_random(entry) for name, entry in own.items()}
    if isinstance(value, list | tuple):
        return type(value)(_at_random(entry) for entry in value if not _is_pretrained(entry))
    return value


def _is_pretrained(value: Any) -> bool:
    """Whether `value` is an `init_cfg` of type Pretrained or Pretrained_Part, one with only a
    checkpoint, or a list of these."""
    if isinstance(value, list | tuple):
        return bool(value) and all(map(_is_pretrained, value))
    if not isinstance(value, dict):
        return False
    kind = value.get("type", "Pretrained" if "checkpoint" in value else "")
    return str(kind).rpartition(".")[2] in ("Pretrained", "Pretrained_Part")


def _named_weights(part: Config) -> str | None:
    """The field of `part` itself that would load weights, with its value."""
    for name, value in part.items():
        if (isinstance(value, str) and _WEIGHTS.search(value)) or (name == "pretrained" and value):
            return f"{name} {value!r}"
    return None


def _maps_taken(model: Config) -> tuple[int, ...]:
    """The indices of CAT's maps, from 0, that the neck or the heads take."""
    consumer = _necks(model)[0] if "neck" in model else None
    if consumer is None:
        if "decode_head" not in model:
            raise ValueError(
                "model.neck: is missing; a model needs a neck or a decode_head to take the maps "
                "of its backbone"
            )
        return ALL_MAPS
    widths, taken = (
        consumer.get("in_channels"),
        tuple(model["backbone"].get("out_indices", ALL_MAPS)),
    )
    num = len(widths) if isinstance(widths, list | tuple) else 1
    if num == len(ALL_MAPS):
        return ALL_MAPS
    if num == len(taken) and set(taken) <= set(ALL_MAPS):
        return taken
    raise ValueError(
        f"model.neck.in_channels: has {num} entries, so it is unclear which of CAT's "
        f"{len(ALL_MAPS)} maps it takes; give {len(ALL_MAPS)} entries, or list {num} maps in "
        "backbone.out_indices"
    )


def _set_widths(model: Config, widths: Sequence[int]) -> None:
    if "neck" in model:
        neck = _necks(model)[0]
        neck["in_channels"] = (
            list(widths) if isinstance(neck["in_channels"], list | tuple) else widths[0]
        )
        return
    for name in ("decode_head", "auxiliary_head"):
        for head in _listed(model.get(name)):
            index = head.get("in_index", -1)
            is_many = isinstance(index, list | tuple)
            head["in_channels"] = [widths[i] for i in index] if is_many else widths[index]


def _necks(model: Config) -> list[Config]:
    necks = _listed(model["neck"])
    if not necks or "in_channels" not in necks[0]:
        raise ValueError(
            "model.neck.in_channels: is missing; without it the neck cannot be fitted to CAT"
        )
    return necks


def _listed(value: Any) -> list[Config]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _set_num_classes(value: Any, num_classes: int) -> None:
    for part in _dicts(value):
        if "num_classes" in part:
            part["num_classes"] = num_classes


def _dicts(value: Any) -> Iterator[dict[str, Any]]:
    """All dicts in `value`, outer before inner."""
    if isinstance(value, dict):
        yield value
    inner = (
        value.values()
        if isinstance(value, dict)
        else value
        if isinstance(value, list | tuple)
        else ()
    )
    for entry in inner:
        yield from _dicts(entry)
