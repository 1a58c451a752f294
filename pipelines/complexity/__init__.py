"""Counts the parameters and FLOPs of the published rows."""
