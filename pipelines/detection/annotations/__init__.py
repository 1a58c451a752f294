"""Reads, checks and normalises COCO's annotations."""
