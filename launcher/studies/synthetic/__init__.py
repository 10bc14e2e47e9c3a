"""`coterie study synthetic`: free embeddings moved by SGD, with batches chosen in every way there is."""
