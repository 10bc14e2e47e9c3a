"""Commands that look on until somebody ends them."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def until_interrupted() -> Iterator[None]:
    """Let Ctrl-C end the body without a message: nothing is interrupted that could go on.

    Raises:
        SystemExit: with the status of a command that Ctrl-C has ended.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
