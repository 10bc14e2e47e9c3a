"""`coterie index`."""

import argparse
from pathlib import Path

from launcher.commands.arguments import add_workers


def add(commands: argparse._SubParsersAction) -> None:
    """Make the parser."""
    parser = commands.add_parser("index", help="number the pairs of tar shards")
    parser.add_argument("shards", help="a glob, or brace ranges as in 'train-{000000..000012}.tar'")
    parser.add_argument("folder", type=Path)
    add_workers(parser)
    parser.set_defaults(command=_index)


def _index(args: argparse.Namespace) -> None:
    from selection.progress import TerminalProgress
    from selection.shards import build_index, expand_shards

    with TerminalProgress() as progress:
        index = build_index(expand_shards(args.shards), args.folder, progress, args.workers)
    print(f"{args.folder}: {len(index):,} pairs in {len(index.shard_paths):,} shards")
