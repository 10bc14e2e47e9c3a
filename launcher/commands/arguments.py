"""Arguments that several commands have."""

import argparse
from typing import Any

from launcher.cpus import usable_cpus


class CommandParser(argparse.ArgumentParser):
    """Takes `a.b=value` behind options as well, which argparse does only on demand."""

    _inner = False

    def parse_known_args(self, *args: Any, **kwargs: Any) -> Any:
        """As the base class, which calls this method again for options and for the others."""
        if self._inner or self._subparsers:
            return super().parse_known_args(*args, **kwargs)
        self._inner = True
        try:
            return self.parse_known_intermixed_args(*args, **kwargs)
        finally:
            self._inner = False


def add_workers(parser: argparse.ArgumentParser) -> None:
    """The option `--workers`."""
    parser.add_argument(
        "--workers",
        type=positive,
        default=usable_cpus(),
        help="processes (default: all cores that it may use)",
    )


def positive(text: str) -> int:
    """A whole number of at least 1."""
    return _at_least(1, text)


def not_negative(text: str) -> int:
    """A whole number of at least 0."""
    return _at_least(0, text)


def share(text: str) -> float:
    """A number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 1")
    return value


def _at_least(least: int, text: str) -> int:
    value = int(text)
    if value < least:
        raise argparse.ArgumentTypeError(f"{value} is not at least {least}")
    return value
