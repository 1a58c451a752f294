"""Reads a config file of mmdet or mmseg and its base files as text, without executing them.

The Key of a stage contains their digest. So a config must not load anything that this module cannot
see: no imports and no environment variables. Its bases must be local files or configs of the
installed library.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

from pydantic import JsonValue

from orchestrator.artifact import digest_of
from orchestrator.errors import DataError
from pipelines.data.faults import data_errors

BASES = "_base_"
MODEL = "model"
_PLACEHOLDER = re.compile(r"\{\{\s*(\$\w*|file\w+)")
"""A placeholder that mmengine would replace from the environment or with the file's location."""
PURE = frozenset(
    {
        "abs",
        "all",
        "any",
        "divmod",
        "enumerate",
        "isinstance",
        "len",
        "map",
        "max",
        "min",
        "pow",
        "range",
    }
)
PURE |= {
    "bool",
    "dict",
    "float",
    "int",
    "list",
    "reversed",
    "round",
    "slice",
    "sorted",
    "str",
    "sum",
    "tuple",
    "zip",
}
"""Python's functions whose values depend only on their arguments. `set` is missing because a set's
order depends on the process's hash seed."""


@dataclass(frozen=True)
class ConfigFile:
    """A parsed config file and its bases, in order."""

    path: Path
    digest: str
    """SHA-256 of the file's bytes."""
    tree: ast.Module
    bases: tuple[ConfigFile, ...]

    @property
    def has_model(self) -> bool:
        own = any(MODEL in _assigned(statement) for statement in self.tree.body)
        return own or any(base.has_model for base in self.bases)


def config_digest(config: str, *, library: str) -> str:
    """Digest of the contents of the file and its bases, independent of their folders. Raises
    DataError as `read_config` does."""
    return digest_of(_digests(read_config(config, library=library)))


def read_config(config: str, *, library: str) -> ConfigFile:
    """Reads a config file and its bases. `config` is a path, or `mmdet::PATH` below the configs of
    the installed `library`, mmdet or mmseg.

    Raises DataError, which names the file, if it is not a model config or if a base is missing or
    part of a cycle. Also raises it if the config depends on something that a Key cannot cover.
    """
    path = _resolve(config, None, library)
    with data_errors(f"config: {path}"):
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "no such file"
            raise DataError(f"config: {path}: {what}; give the path of a .py config file")
    file = _read(path, (), library)
    if not file.has_model:
        raise DataError(
            f"config: {path}: not a model config: neither the file nor its bases assign `{MODEL}`"
        )
    return file


def _read(path: Path, trail: tuple[Path, ...], library: str) -> ConfigFile:
    if path in trail:
        chain = " -> ".join(map(str, (*trail[trail.index(path) :], path)))
        raise DataError(f"config: its bases form a cycle: {chain}")
    try:
        content = path.read_bytes()
        tree = ast.parse(content, filename=str(path))
    except OSError as err:
        raise DataError(f"config: {path}: cannot be read: {err.strerror}") from err
    except (SyntaxError, ValueError, RecursionError) as err:
        raise DataError(f"config: {path}: not a valid Python file: {err}") from err
    _check_closed(path, content.decode(errors="replace"), tree)
    bases = []
    for name in _base_names(path, tree):
        base = _resolve(name, path.parent, library)
        with data_errors(f"config: {path}"):
            if not base.is_file():
                raise DataError(f"config: {path}: its base {name} is missing: {base} is not a file")
        bases.append(_read(base, (*trail, path), library))
    return ConfigFile(path, sha256(content).hexdigest(), tree, tuple(bases))


def _resolve(name: str, folder: Path | None, library: str) -> Path:
    """The file of a path relative to `folder`, or of `library::PATH`. Does not use mmengine, which
    may call pip."""
    package, separator, inside = name.partition("::")
    if not separator:
        location = Path(name) if folder is None else folder / name
        try:
            return location.resolve()
        except RuntimeError as err:  # Python's error for a loop of symbolic links
            raise DataError(f"config: {location}: its symbolic links form a loop") from err
    if package != library:
        raise DataError(
            f"config: {name}: belongs to {package}, but this stage builds models of {library}"
        )
    spec = find_spec(library)
    locations = (spec.submodule_search_locations if spec else None) or []
    return next(
        (Path(location) / ".mim" / "configs" / inside for location in locations), Path(inside)
    ).resolve()


def _check_closed(path: Path, text: str, tree: ast.Module) -> None:
    """Raises DataError if the config depends on more than its own text and the text of its
    bases."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            raise DataError(
                f"config: {path}:{node.lineno}: imports are not allowed, because the stage's Key "
                f"cannot cover what they load; write bases as {BASES} = ['../some.py', "
                "'mmdet::...']"
            )
        if isinstance(node, ast.Name | ast.Attribute) and (name := _reaching_out(node)):
            raise DataError(
                f"config: {path}:{node.lineno}: {name} is not allowed, because the stage's Key "
                "cannot cover what it reads; write the value itself. A config may use these "
                f"functions of Python: {', '.join(sorted(PURE))}"
            )
    if found := _PLACEHOLDER.search(text):
        raise DataError(
            f"config: {path}: {found[0]} }}}} would take its value from outside the file; write "
            "the value itself"
        )
    if any("custom_imports" in _assigned(statement) for statement in tree.body):
        raise DataError(
            f"config: {path}: custom_imports are not allowed, because the stage's Key cannot "
            "cover what they load; remove them"
        )


def _reaching_out(node: ast.Name | ast.Attribute) -> str | None:
    """The name, if it is a Python built-in that is not pure, or an attribute that leads to one, as
    `().__class__` does. Else None."""
    name = node.id if isinstance(node, ast.Name) else node.attr
    if name.startswith("__"):
        return name
    if isinstance(node, ast.Attribute) or not isinstance(node.ctx, ast.Load) or name in PURE:
        return None
    meaning = getattr(builtins, name, None)
    is_error = isinstance(meaning, type) and issubclass(meaning, BaseException)
    return None if meaning is None or is_error else name


def _base_names(path: Path, tree: ast.Module) -> tuple[str, ...]:
    """The bases that the file names. Raises DataError unless `_base_` is one plain assignment,
    because mmengine would follow other forms, which this module cannot see."""
    bound = [node for node in ast.walk(tree) if _binds(node, BASES)]
    if not bound:
        return ()
    found = [
        node.value for node in tree.body if isinstance(node, ast.Assign) and node.targets == bound
    ]
    try:
        names = ast.literal_eval(found[0]) if found else None
    except ValueError:
        names = None
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise DataError(
            f"config: {path}: {BASES} must be assigned once, to a literal path or list of paths: "
            f"{BASES} = ['some.py']"
        )
    return tuple(names)


def _binds(node: ast.AST, name: str) -> bool:
    """Whether `node` binds `name`: by an assignment of any form, a function, a class or a caught
    error."""
    if isinstance(node, ast.Name):
        return node.id == name and not isinstance(node.ctx, ast.Load)
    return not isinstance(node, ast.alias) and getattr(node, "name", None) == name


def _assigned(statement: ast.stmt) -> Iterator[str]:
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    return (target.id for target in targets if isinstance(target, ast.Name))


def _digests(file: ConfigFile) -> JsonValue:
    return [file.digest, [_digests(base) for base in file.bases]]
