"""Data sets that need no download, written as WebDataset shards."""
