"""The parts of `python -m benchmarks.model_speed`: networks, timing, counting and tables."""
