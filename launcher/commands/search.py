"""`coterie search`."""

import argparse
from pathlib import Path

from launcher.commands.arguments import positive


def add(commands: argparse._SubParsersAction) -> None:
    """Make the parser."""
    parser = commands.add_parser("search", help="search the held-out pairs of a run")
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    parser.add_argument("queries", nargs="+", metavar="QUERY")
    parser.add_argument("--top", type=positive, default=3, help="results per query (default: 3)")
    parser.set_defaults(command=_search)


def _search(args: argparse.Namespace) -> None:
    from launcher.search import describe, search

    for query, hits in zip(args.queries, search(args.run_dir, args.queries, args.top), strict=True):
        print(describe(query, hits), end="\n\n")
