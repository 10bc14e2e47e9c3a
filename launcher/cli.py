"""The command `coterie`: its parser, put together from `launcher/commands`, and its exit statuses."""

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from typing import Any

from launcher.commands import (
    cancel,
    compare,
    dataset,
    doctor,
    index,
    logs,
    plan,
    report,
    run,
    search,
    select,
    status,
    study,
    submit,
)
from launcher.commands.arguments import CommandParser
from launcher.stopping import EXIT_STOPPED, Stopped
from selection.errors import ArtifactError, ConfigError, JobError

_NO_PLACE = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EROFS)
"""What a file system says when something cannot be written where a user wants it."""

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
"""What it says when it is full; no file is named then."""

EXIT_FAILED, EXIT_WRONG_INPUT, EXIT_INTERRUPTED = 1, 2, 130

_COMMANDS = (
    run,
    plan,
    submit,
    status,
    logs,
    cancel,
    doctor,
    compare,
    report,
    search,
    select,
    dataset,
    index,
    study,
)
"""In the order of `--help`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 fine, 1 failed, 2 wrong input, 75 stopped by USR1 or TERM, 130 interrupted.
    """
    args = build_parser().parse_args(arguments)
    try:
        args.command(args)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read has enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except (ConfigError, ArtifactError) as error:
        print(f"coterie: {error}", file=sys.stderr)
        return EXIT_WRONG_INPUT
    except JobError as error:
        print(f"coterie: {error}", file=sys.stderr)
        return EXIT_FAILED
    except OSError as error:
        print(f"coterie: {_next_step(error)}", file=sys.stderr)
        return EXIT_FAILED
    except Stopped:
        print("coterie: stopped on request; the same command goes on from there", file=sys.stderr)
        return EXIT_STOPPED
    except KeyboardInterrupt:
        print(
            "coterie: interrupted; the same command goes on from the last complete state",
            file=sys.stderr,
        )
        return EXIT_INTERRUPTED
    return 0


def _next_step(error: OSError) -> str:
    """What is wrong with a place that was to be written to; any other error is a defect of ours, and raised."""
    if error.errno in _NO_ROOM:
        return f"{error.strerror}; make room, and the same command goes on from there"
    if error.errno in _NO_PLACE and error.filename is not None:
        return f"{error.filename}: {error.strerror}; choose another place"
    raise error


class _Version(argparse.Action):
    """Looks the version up only when it is asked for."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, nargs=0, **kwargs)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Print it and end."""
        from importlib.metadata import version

        print(f"coterie {version('coterie')}")
        parser.exit()


def build_parser() -> argparse.ArgumentParser:
    """Commands and their arguments."""
    parser = argparse.ArgumentParser(
        prog="coterie",
        description="Contrastive training on batches that are chosen, not drawn.",
        epilog="coterie COMMAND --help tells more about each command.",
    )
    parser.add_argument("--version", action=_Version, help="print the version and end")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=CommandParser)
    for module in _COMMANDS:
        module.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
