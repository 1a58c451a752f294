"""The parts that all training loops share: when to save or stop, seeds, speed, ranks,
divergence."""
