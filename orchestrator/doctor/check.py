"""A check: one line of the doctor's answer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from pydantic import JsonValue

from orchestrator.errors import UnreachableError
from orchestrator.numbers import count_text

DRIVER = "driver"
"""The name of the machine that the command runs on, as its own process sees it."""
CLUSTER = "cluster"
"""The name under which checks of all machines together are listed."""


class Verdict(StrEnum):
    OK = "ok"
    WARNING = "warning"
    """A run may work, but slowly, or it may fail later."""
    FAULT = "fault"
    """A run fails, or its results are wrong."""


@dataclass(frozen=True)
class Check:
    """The verdict on one property of one machine."""

    name: str
    node: str
    verdict: Verdict
    detail: str
    """What was found."""
    todo: str | None = None
    """What to do. None if it is ok."""

    def __str__(self) -> str:
        todo = f"; {self.todo}" if self.todo else ""
        return f"{self.verdict:<7}  {self.node}: {self.name}: {self.detail}{todo}"

    def to_json(self) -> dict[str, JsonValue]:
        return {
            "name": self.name,
            "node": self.node,
            "verdict": str(self.verdict),
            "detail": self.detail,
            "todo": self.todo,
        }


def to_document(checks: Iterable[Check]) -> dict[str, JsonValue]:
    return {"checks": [check.to_json() for check in checks]}


def exit_code(checks: Iterable[Check]) -> int:
    """3 if a check is a fault, as for a store or a cluster that cannot be reached, else 0."""
    has_fault = any(check.verdict is Verdict.FAULT for check in checks)
    return UnreachableError.exit_code if has_fault else 0


def summary(checks: Iterable[Check]) -> str:
    """Return a line such as `12 checks: 1 fault, 2 warnings`."""
    found = [check.verdict for check in checks]
    counts = [
        count_text(num, verdict)
        for verdict in (Verdict.FAULT, Verdict.WARNING)
        if (num := found.count(verdict))
    ]
    return f"{count_text(len(found), 'check')}: {', '.join(counts) or 'all ok'}"
