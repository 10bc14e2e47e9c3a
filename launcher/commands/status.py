"""`coterie status`."""

import argparse
import time
from pathlib import Path

from launcher.commands.arguments import positive
from launcher.commands.watching import until_interrupted

_CLEAR = "\033[H\033[2J"
"""Empties a terminal."""


def add(commands: argparse._SubParsersAction) -> None:
    """Make the parser."""
    parser = commands.add_parser("status", help="where runs stand, wherever they run")
    parser.add_argument("run_dirs", nargs="+", type=Path, metavar="RUN_DIR")
    parser.add_argument("--json", action="store_true", help="all fields, for programs")
    parser.add_argument(
        "--watch", type=positive, nargs="?", const=5, metavar="S",
        help="look again every S seconds (default: 5) until Ctrl-C",
    )  # fmt: skip
    parser.set_defaults(command=_status)


def _status(args: argparse.Namespace) -> None:
    if not args.watch:
        print(_look(args))
        return
    with until_interrupted():
        while True:
            print(f"{_CLEAR}{time.strftime('%H:%M:%S')}\n{_look(args)}", flush=True)
            time.sleep(args.watch)


def _look(args: argparse.Namespace) -> str:
    from launcher.status.reading import observe
    from launcher.status.standing import find_standing
    from launcher.status.text import to_json, to_lines, to_table

    standings = [find_standing(seen) for seen in observe(args.run_dirs)]
    if args.json:
        return to_json(standings)
    return to_lines(standings[0]) if len(standings) == 1 else to_table(standings)
