"""A Search as JSON: the fields of its summary and all its trials."""

from __future__ import annotations

from pydantic import JsonValue

from orchestrator.report.search.summary import Search


def search_json(search: Search) -> dict[str, JsonValue]:
    """Return `{"metric", "mode", "best", "best_so_far", "spent", ..., "trials": [...]}`, with
    trials in the order of their numbers."""
    trials: dict[str, JsonValue] = search.trials.model_dump(mode="json", include={"trials"})
    return {**search.summary.model_dump(mode="json"), **trials}
