"""The parts of `python -m benchmarks.train_gpu`: a training step, what it reaches, and where its time goes."""
