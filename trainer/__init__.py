"""Training: encoders, loss, data by id, DeepSpeed ranks. Imports `selection` only."""
