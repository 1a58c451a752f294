"""A Search -> JSON: the summary's fields and all its trials."""

from __future__ import annotations

from pydantic import JsonValue

from orchestrator.report.search.summary import Search


def search_json(search: Search) -> dict[str, JsonValue]:
    """`{"metric", "mode", "best", "best_so_far", "spent", ..., "trials": [...]}`, trials in order
    of number."""
    trials: dict[str, JsonValue] = search.trials.model_dump(mode="json", include={"trials"})
    return {**search.summary.model_dump(mode="json"), **trials}
