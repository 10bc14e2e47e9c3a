"""One module per command: `add` makes its parser, and the function that it names does the work.

All of them are imported for `--help`, so whatever is heavy is imported inside those functions.
"""
