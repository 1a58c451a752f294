"""What a run exports to Prometheus while it works: the list of metrics, their values, and the
dashboard and alerts that are generated from the list. Uses no Ray."""
