"""The parts of `benchmarks.train_gpu` and `benchmarks.downstream_gpu`."""
