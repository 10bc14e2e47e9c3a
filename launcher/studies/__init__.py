"""Studies: what the method promises and what it keeps, each made with one command and shown as tables and pictures."""
