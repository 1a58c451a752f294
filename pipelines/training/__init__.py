"""What every training loop shares: when to save or stop, seeds, speed, ranks, divergence."""
