"""Parse the text of job files into a tree of marked values. Knows nothing about jobs."""
