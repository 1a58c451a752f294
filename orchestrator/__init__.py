"""Trains and evaluates CAT (arXiv 2106.05786) on a Ray cluster from one YAML job file."""

__version__ = "0.1.0"
