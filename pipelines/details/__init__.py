"""What an evaluation tells beside its metrics: a table by class, a confusion matrix, painted
images, predictions."""
