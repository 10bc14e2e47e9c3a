"""`coterie study theory`: the paper's statements as experiments with a mark, and its open questions as tables."""
