"""The text of job files -> a tree of marked values. It knows nothing of jobs."""
