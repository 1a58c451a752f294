"""The kinds that are part of the orchestrator itself: `tune` and `evaluate`."""
