"""A job's curves and numbers for other tools. Training does not know about it."""
