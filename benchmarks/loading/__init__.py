"""The parts of `python -m benchmarks.data_loading`: images, contestants, settings, results."""
