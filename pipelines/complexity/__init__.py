"""Parameters and FLOPs of the published rows: detectors and segmenters on CAT."""
