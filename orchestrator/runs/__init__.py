"""The records of runs in the store: their values, their writer and their readers."""
