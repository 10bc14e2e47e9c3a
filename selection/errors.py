"""The errors that a user can meet; everything else is a defect of ours.

The command line turns them into one line and an exit status. A message names the field or file, the
value found, the rule, and what to do next.
"""


class ConfigError(ValueError):
    """A value that the user gave is wrong; exit status 2."""


class NoBatchError(ConfigError):
    """Not one batch can be formed of the pairs there are."""


class ArtifactError(ValueError):
    """A file or folder on disk is missing, stale, truncated or of another run; exit status 2."""


class JobError(RuntimeError):
    """A worker or a child process failed; exit status 1. The message names its log."""
