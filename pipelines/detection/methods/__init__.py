"""The detectors: a module for each, and the pieces that they share."""
