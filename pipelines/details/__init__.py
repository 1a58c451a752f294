"""The files that an evaluation publishes in addition to its metrics: a table by class, a confusion
matrix, painted images and predictions."""
