"""`coterie cancel`."""

import argparse
from pathlib import Path


def add(commands: argparse._SubParsersAction) -> None:
    """Make the parser."""
    parser = commands.add_parser(
        "cancel", help="stop a run, here or in SLURM, so that it can go on"
    )
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    parser.add_argument(
        "--now", action="store_true", help="at once; what came after the last checkpoint is lost"
    )
    parser.set_defaults(command=_cancel)


def _cancel(args: argparse.Namespace) -> None:
    from launcher.cancel import cancel

    print("\n".join(cancel(args.run_dir, args.now)))
