"""Images in tar files (WebDataset's layout) with an index, on disk or in S3: reads, writes and
caches them."""
