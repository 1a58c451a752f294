"""Turn the tree of a job file into a Job: its stages and the references between them."""
