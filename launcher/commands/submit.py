"""`coterie submit`."""

import argparse
from pathlib import Path
from typing import Any

from launcher.commands.arguments import positive

_TEXT_OPTIONS = {
    "partition": "P",
    "account": "A",
    "qos": "Q",
    "time": "T",
    "job_name": "NAME",
    "memory_per_node": "M",
}


def add(commands: argparse._SubParsersAction) -> None:
    """Make the parser."""
    parser = commands.add_parser("submit", help="the same run as a SLURM job")
    parser.add_argument("config", type=Path, help="a YAML file; its section `slurm` holds the rest")
    parser.add_argument(
        "overrides", nargs="*", metavar="a.b=value", help="settings that replace the file's"
    )
    parser.add_argument("--nodes", type=positive, metavar="N")
    parser.add_argument("--gpus-per-node", type=positive, metavar="G")
    parser.add_argument("--cpus-per-node", type=positive, metavar="C")
    for name, metavar in _TEXT_OPTIONS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", metavar=metavar)
    parser.add_argument("--dry-run", action="store_true", help="show the script, and do nothing")
    parser.set_defaults(command=_submit)


def _submit(args: argparse.Namespace) -> None:
    from launcher.config import RunConfig, apply_override, read_values, validate
    from launcher.slurm import plan_job, render, submit
    from selection.shards import expand_shards

    values = read_values(args.config)
    for override in args.overrides:
        apply_override(values, override)
    section = values.get("slurm") or {}
    if isinstance(section, dict):  # or else `validate` says what it should be
        values["slurm"] = {**section, **_given(args)}
    config = validate(RunConfig, values, source=str(args.config))
    job = plan_job(config)
    if args.dry_run:
        print(render(job), end="")
        return
    for split, pattern in config.data.splits():
        expand_shards(pattern, f"data.{split}")
    submitted = submit(job)
    print(f"job {submitted.job_id}: {submitted.log}")


def _given(args: argparse.Namespace) -> dict[str, Any]:
    """Options that were given; they win over the section `slurm` of the file."""
    names = ("nodes", "gpus_per_node", "cpus_per_node", *_TEXT_OPTIONS)
    return {name: value for name in names if (value := getattr(args, name)) is not None}
