"""Readers of data in ImageNet's layout: `train/<class>/*` and `val/<class>/*`."""
