"""What a run leaves in the store: values, their writer, and their readers."""
