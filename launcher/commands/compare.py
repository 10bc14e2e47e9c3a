"""`coterie compare`."""

import argparse
from pathlib import Path


def add(commands: argparse._SubParsersAction) -> None:
    """Make the parser."""
    parser = commands.add_parser("compare", help="one table of several runs")
    parser.add_argument("run_dirs", nargs="+", type=Path, metavar="RUN_DIR")
    parser.set_defaults(command=_compare)


def _compare(args: argparse.Namespace) -> None:
    from launcher.compare import comparison, summarize, to_text

    print(to_text(comparison([summarize(root) for root in args.run_dirs])))
