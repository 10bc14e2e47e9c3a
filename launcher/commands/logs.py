"""`coterie logs`."""

import argparse
from pathlib import Path

from launcher.commands.arguments import not_negative, positive
from launcher.commands.watching import until_interrupted


def add(commands: argparse._SubParsersAction) -> None:
    """Make the parser."""
    parser = commands.add_parser("logs", help="what went wrong, and what a run's processes wrote")
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    parser.add_argument("--rank", type=not_negative, metavar="N", help="of one rank alone")
    parser.add_argument("--attempt", type=positive, metavar="N", help="default: the newest")
    parser.add_argument("-n", "--lines", type=not_negative, default=20, help="default: 20 of each")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until Ctrl-C")
    parser.add_argument("--list", action="store_true", help="attempts and files, and no more")
    parser.set_defaults(command=_logs)


def _logs(args: argparse.Namespace) -> None:
    from launcher.logs import follow, list_logs, show_logs

    if args.list:
        print(list_logs(args.run_dir))
        return
    logs = show_logs(args.run_dir, args.attempt, args.rank, args.lines)
    if args.follow:
        with until_interrupted():
            follow(logs)
