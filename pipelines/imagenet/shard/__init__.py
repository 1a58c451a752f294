"""Images in tar files (WebDataset's layout) with an index, on disk or in S3: read, written, kept on
a machine."""
