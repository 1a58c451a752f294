"""The detectors: one module for each, and shared pieces."""
