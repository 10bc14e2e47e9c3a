"""`coterie plan`."""

import argparse
from pathlib import Path


def add(commands: argparse._SubParsersAction) -> None:
    """Make the parser."""
    parser = commands.add_parser(
        "plan",
        help="what a run would need and cost; starts nothing",
        description="What a run would need and cost: bytes on disk, memory, operations, time, reads. Starts nothing, "
        "writes nothing, touches no GPU. Pairs are counted in the headers of up to four shards, and the others are "
        "taken to hold as many for their bytes. Where no shard is found, plan.num_pairs and plan.pair_bytes of the "
        "configuration say what they hold; plan.gpu says what it will run on.",
    )
    parser.add_argument("config", type=Path, help="a YAML file, such as configs/quickstart.yaml")
    parser.add_argument(
        "overrides", nargs="*", metavar="a.b=value", help="settings that replace the file's"
    )
    parser.add_argument(
        "--json", action="store_true", help="plain values: bytes, seconds, operations"
    )
    parser.set_defaults(command=_plan)


def _plan(args: argparse.Namespace) -> None:
    import json

    from launcher.config import load_config

    config = load_config(args.config, args.overrides)
    from launcher.plan.estimate import plan_run
    from launcher.plan.table import to_json, to_page

    plan = plan_run(config)
    print(json.dumps(to_json(plan), indent=2) if args.json else to_page(plan))
