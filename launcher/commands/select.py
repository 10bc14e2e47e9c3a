"""`coterie select`."""

import argparse
from pathlib import Path

from launcher.commands.arguments import not_negative, positive


def add(commands: argparse._SubParsersAction) -> None:
    """Make the parser."""
    parser = commands.add_parser("select", help="batches for any embeddings and any trainer")
    parser.add_argument("u_file", type=Path, metavar="U.npy", help="floats [N, d], unit rows")
    parser.add_argument(
        "v_file", type=Path, metavar="V.npy", nargs="?", help="default: U.npy, single-view data"
    )
    parser.add_argument("--batch-size", type=positive, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of the schedule")
    parser.add_argument("--strategy", default="spectral", help="what forms the batches")
    parser.add_argument("--temperature", type=float, default=0.07, help="t of the loss")
    parser.add_argument("--seed", type=not_negative, default=0)
    parser.add_argument(
        "--previous", type=Path, metavar="DIR",
        help="the schedule before this one: whom it left over comes first, and warmup_rounds count on",
    )  # fmt: skip
    parser.add_argument(
        "--set",
        dest="settings",
        nargs="+",
        action="extend",
        default=[],
        metavar="a.b=value",
        help="such as graph.num_neighbors=32",
    )
    parser.set_defaults(command=_select)


def _select(args: argparse.Namespace) -> None:
    from launcher.console import describe_schedule
    from launcher.select import SelectRequest, select_files
    from selection.progress import TerminalProgress

    names = SelectRequest.__dataclass_fields__
    request = SelectRequest(**{name: getattr(args, name) for name in names})
    with TerminalProgress() as progress:
        schedule = select_files(request, progress)
    print(describe_schedule(f"{args.out}:", schedule.manifest))
