"""`coterie dataset KIND`."""

import argparse
from pathlib import Path

from launcher.commands.arguments import add_workers, positive


def add(commands: argparse._SubParsersAction) -> None:
    """Make the parser, with one sub-command per kind of data set."""
    dataset = commands.add_parser("dataset", help="write a data set as WebDataset shards")
    kinds = dataset.add_subparsers(required=True, metavar="KIND")
    _add_code_search(kinds)


def _add_code_search(kinds: argparse._SubParsersAction) -> None:
    parser = kinds.add_parser(
        "code-search", help="docstrings and bodies of the installed Python packages"
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--limit", type=positive, help="most training pairs (default: all)")
    add_workers(parser)
    parser.set_defaults(command=_code_search)


def _code_search(args: argparse.Namespace) -> None:
    from selection.progress import TerminalProgress
    from trainer.datasets.code_search import write_code_search

    with TerminalProgress() as progress:
        manifest = write_code_search(args.folder, args.limit, args.workers, progress)
    print(
        f"{args.folder}: {manifest['train']['num_pairs']:,} training and "
        f"{manifest['heldout']['num_pairs']:,} held-out pairs"
    )
