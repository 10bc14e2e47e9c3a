"""The composition root: command line, configuration, run directory, rounds. Imports `trainer` and `selection`."""
