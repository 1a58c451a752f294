"""The catalogue of errors: every message that a user can meet, and which of them no test reaches.

`make errors` runs the tests under coverage (about 40 minutes), then prints the catalogue. It is not
part of CI.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from coverage import CoverageData

from cat_model.errors import WeightsError
from orchestrator.contract import Misfit
from orchestrator.errors import Fault, OrchestratorError, SpecError
from tests.docs.reference import subclasses

ROOT = Path(__file__).parents[2]
PACKAGES = ("orchestrator", "pipelines", "cat_model")
ERRORS = {
    WeightsError.__name__,
    *(error.__name__ for error in subclasses(OrchestratorError)),
} - {SpecError.__name__}
MISFITS = {Misfit.__name__}
"""Fields that do not go together. These and faults are raised together, as one SpecError."""


@dataclass(frozen=True)
class Message:
    """One place in the code that makes an error, and its text with `{...}` for values."""

    path: str
    line: int
    error: str
    text: str


def catalogue() -> Iterator[Message]:
    """Every message, file by file."""
    for package in PACKAGES:
        for module in sorted((ROOT / package).rglob("*.py")):
            tree = ast.parse(module.read_text())
            yield from _messages(tree, module.relative_to(ROOT).as_posix())


def _messages(tree: ast.Module, path: str) -> Iterator[Message]:
    for function, node in _with_functions(tree, None):
        match node:
            case ast.Call(func=ast.Name(id=name), args=[_, message]) if name in MISFITS:
                yield Message(path, node.lineno, name, _text(message, function))
            case ast.Call(func=ast.Name(id=name), args=[first, *_]) if name in ERRORS:
                yield Message(path, node.lineno, name, _text(first, function))
            case ast.Call(func=ast.Attribute(value=faults, attr="add"), args=[first, _, last]) if (
                ast.unparse(faults).endswith("faults")
            ):
                # Faults of a job end with the text, faults of a data set begin with it.
                message = last if path.startswith("orchestrator/") else first
                yield Message(path, node.lineno, Fault.__name__, _text(message, function))


def _with_functions(
    node: ast.AST, function: ast.AST | None
) -> Iterator[tuple[ast.AST | None, ast.AST]]:
    """Every node below, each with the innermost function that it is in."""
    for child in ast.iter_child_nodes(node):
        yield function, child
        is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        yield from _with_functions(child, child if is_function else function)


def _text(value: ast.expr, function: ast.AST | None) -> str:
    """The text of an expression, with the source of what is not known before it runs in braces."""
    match value:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(_text(part, function) for part in parts)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _text(left, function) + _text(right, function)
        case ast.Name(id=name) if assigned := _assigned(name, value.lineno, function):
            return _text(assigned, None)
        case ast.FormattedValue(value=inner):
            return f"{{{ast.unparse(inner)}}}"
    return f"{{{ast.unparse(value)}}}"


def _assigned(name: str, before_line: int, function: ast.AST | None) -> ast.expr | None:
    """What the function last gave the variable, in the order of its lines."""
    found = None
    for node in ast.walk(function) if function else ():
        match node:
            case ast.Assign(targets=[ast.Name(id=target)], value=value):
                if target == name and node.lineno < before_line:
                    found = value
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--coverage", type=Path, help="mark what the tests of this data reached")
    arguments = parser.parse_args()
    reached = _Reached(arguments.coverage) if arguments.coverage else None
    num_missed = 0
    path = ""
    for message in catalogue():
        if message.path != path:
            path = message.path
            print(f"\n{path}")
        is_missed = reached is not None and not reached.by_a_test(message)
        num_missed += is_missed
        mark = "NOT REACHED " if is_missed else ""
        print(f"{message.line:5} {mark}{message.error}: {message.text}")
    if reached:
        print(f"\n{num_missed} messages that no test reached")
    return 0


class _Reached:
    """The lines that ran while coverage measured."""

    def __init__(self, path: Path) -> None:
        self._data = CoverageData(path)
        self._data.read()

    def by_a_test(self, message: Message) -> bool:
        return message.line in (self._data.lines(str(ROOT / message.path)) or ())


if __name__ == "__main__":
    sys.exit(main())
