"""S3 for the store and for data: one client, one bucket, what errors mean, and what workers are
offered."""
