"""`coterie report`."""

import argparse
from pathlib import Path


def add(commands: argparse._SubParsersAction) -> None:
    """Make the parser."""
    parser = commands.add_parser(
        "report", help="one HTML page of a run, or of several side by side"
    )
    parser.add_argument(
        "run_dirs", nargs="+", type=Path, metavar="RUN_DIR", help="finished or under way"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("report.html"), help="the page (default: report.html)"
    )
    parser.set_defaults(command=_report)


def _report(args: argparse.Namespace) -> None:
    from launcher.report.page import write_report

    write_report(args.run_dirs, args.out)
    print(f"{args.out}: open it in a browser")
