"""CAT as a job names it: its params, its network, its checkpoints."""
