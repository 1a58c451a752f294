"""The parts of `benchmarks.train_gpu` and `benchmarks.downstream_gpu`: a step, what it reaches,
where its time goes."""
