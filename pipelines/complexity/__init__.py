"""Parameters and FLOPs of the published rows."""
