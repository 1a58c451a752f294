"""The kinds that the orchestrator brings itself: `tune` and `evaluate`."""
