"""The parts of `python -m benchmarks.model_speed`: what is run, timed, counted and shown."""
