"""Selection: which pairs share a batch. Knows nothing of training, imports nothing of ours."""
