"""Measurements that print a ratio against a named rival, measured side by side in the same run. Not
shipped."""
