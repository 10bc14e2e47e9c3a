"""`coterie run`."""

import argparse
from pathlib import Path


def add(commands: argparse._SubParsersAction) -> None:
    """Make the parser."""
    parser = commands.add_parser(
        "run", help="select, train, judge, round by round; goes on where it stopped"
    )
    parser.add_argument("config", type=Path, help="a YAML file, such as configs/quickstart.yaml")
    parser.add_argument(
        "overrides", nargs="*", metavar="a.b=value", help="settings that replace the file's"
    )
    parser.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="of a running Ray cluster (default: ray.address, RAY_ADDRESS, or a Ray of its own on this machine)",
    )
    parser.set_defaults(command=_run)


def _run(args: argparse.Namespace) -> None:
    from launcher.config import load_config

    address = [f"ray.address={args.address}"] if args.address else []
    config = load_config(args.config, [*args.overrides, *address])
    from launcher.execute import execute
    from launcher.stopping import stoppable

    with stoppable():
        execute(config)
