"""The tree of a job file -> Job: stages, and what these say about each other."""
