"""The last line of a run: how it went, in the few words that a log's reader looks for. Prints
nothing."""

from __future__ import annotations

from orchestrator.report import Cell, CellVerdict
from orchestrator.run import Outcome
from orchestrator.schedule import State


def verdict_of(job_name: str, outcome: Outcome, cells: tuple[Cell, ...]) -> str:
    """Such as `quickstart: done: 4 stages, 1 of them reused; 3 of 4 expectations met`."""
    by_state = {
        state: [name for name, at in outcome.states.items() if at is state] for state in State
    }
    if by_state[State.FAILED]:
        lost = "; ".join(
            f"{state}: {', '.join(by_state[state])}"
            for state in (State.FAILED, State.BLOCKED)
            if by_state[state]
        )
        return (
            f"{job_name}: {lost}; what was finished is kept, and the same command goes on from "
            "there"
        )
    reused = len(by_state[State.REUSED])
    return (
        f"{job_name}: done: {len(outcome.states)} stages, {reused} of them "
        f"reused{_expectations(cells)}"
    )


def _expectations(cells: tuple[Cell, ...]) -> str:
    expected = [cell for cell in cells if cell.expected is not None]
    met = sum(cell.verdict is CellVerdict.PASS for cell in expected)
    return f"; {met} of {len(expected)} expectations met" if expected else ""
