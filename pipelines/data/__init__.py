"""Data sets on this machine and in S3: where they are, what they hold, how they are fetched."""
