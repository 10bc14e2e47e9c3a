"""`coterie submit`."""

import argparse
from pathlib import Path
from typing import Any

from launcher.commands.arguments import positive

_TEXT_OPTIONS = {
    "partition": ("P", "where it queues"),
    "account": ("A", "whose hours it takes"),
    "qos": ("Q", "quality of service"),
    "time": ("T", "limit as sbatch reads it: 90 (minutes), 2:00:00, 3-12:00:00"),
    "job_name": ("NAME", "default: the name of the run directory"),
    "memory_per_node": ("M", "with a unit, such as 480G; 0 is all that a node has"),
}


def add(commands: argparse._SubParsersAction) -> None:
    """Make the parser."""
    parser = commands.add_parser(
        "submit",
        help="the same run as a SLURM job",
        description="Hand a run to SLURM: Ray starts on the nodes of the job, and the run on Ray. When it is preempted "
        "or its time ends, it saves, and the job goes back into the queue. Options win over the section `slurm` of the "
        "file, which holds the rest: modules, container, set-up commands, more options of sbatch.",
    )
    parser.add_argument("config", type=Path, help="a YAML file; its section `slurm` holds the rest")
    parser.add_argument(
        "overrides", nargs="*", metavar="a.b=value", help="settings that replace the file's"
    )
    parser.add_argument("--nodes", type=positive, metavar="N", help="default: slurm.nodes, or 1")
    parser.add_argument(
        "--gpus-per-node", type=positive, metavar="G", help="default: slurm.gpus_per_node"
    )
    parser.add_argument(
        "--cpus-per-node", type=positive, metavar="C", help="default: slurm.cpus_per_node"
    )
    for name, (metavar, text) in _TEXT_OPTIONS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", metavar=metavar, help=text)
    parser.add_argument("--dry-run", action="store_true", help="show the script, and do nothing")
    parser.set_defaults(command=_submit)


def _submit(args: argparse.Namespace) -> None:
    from launcher.config import RunConfig, apply_overrides, read_values, validate
    from launcher.plan.data import check_parts
    from launcher.slurm import plan_job, render, submit
    from selection.shards import expand_shards

    values = read_values(args.config)
    apply_overrides(values, args.overrides)
    section = values.get("slurm") or {}
    if isinstance(section, dict):  # or else `validate` says what it should be
        values["slurm"] = {**section, **_given(args)}
    config = validate(RunConfig, values, source=str(args.config))
    job = plan_job(config)
    if args.dry_run:
        print(render(job), end="")
        return
    splits = config.data.splits()
    check_parts(config, {split: expand_shards(shards, f"data.{split}") for split, shards in splits})
    submitted = submit(job)
    print(f"job {submitted.job_id}: {submitted.log}")


def _given(args: argparse.Namespace) -> dict[str, Any]:
    """Options that were given; they win over the section `slurm` of the file."""
    names = ("nodes", "gpus_per_node", "cpus_per_node", *_TEXT_OPTIONS)
    return {name: value for name in names if (value := getattr(args, name)) is not None}
