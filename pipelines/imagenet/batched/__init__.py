"""timm's image operations on batches of uint8, on any device: one call per operation, with
arguments for each image."""
