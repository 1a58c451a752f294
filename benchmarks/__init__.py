"""Benchmarks that print a ratio to a named rival, measured in the same run. Not shipped."""
