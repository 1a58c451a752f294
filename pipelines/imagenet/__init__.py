"""Readers of image data for classification: class folders, class maps and tar shards."""
