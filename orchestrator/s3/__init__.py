"""S3 for the store and for data: the client, the bucket, explanations of errors, and the settings
that workers get from the driver."""
