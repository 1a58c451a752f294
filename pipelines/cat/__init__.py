"""CAT in a job: its params, its network, its checkpoints."""
