"""Peers and strategies side by side, one command each; run from the root of the repository."""
