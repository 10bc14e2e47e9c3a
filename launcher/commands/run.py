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
    parser.set_defaults(command=_run)


def _run(args: argparse.Namespace) -> None:
    from launcher.config import load_config

    config = load_config(args.config, args.overrides)
    from launcher.execute import execute
    from launcher.stopping import stoppable

    with stoppable():
        execute(config)
