"""`coterie doctor`."""

import argparse
from pathlib import Path


def add(commands: argparse._SubParsersAction) -> None:
    """Make the parser."""
    parser = commands.add_parser("doctor", help="check this machine, with the next step for each")
    parser.add_argument("--config", type=Path, help="of the run that is meant")
    parser.set_defaults(command=_doctor)


def _doctor(args: argparse.Namespace) -> None:
    from launcher.config import load_config
    from launcher.doctor.probes import examine
    from selection.errors import JobError

    findings = examine(load_config(args.config) if args.config else None)
    for finding in findings:
        print(f"{finding.level:<8} {finding.name:<14} {finding.text}")
    if problems := [finding.name for finding in findings if finding.level == "problem"]:
        raise JobError(f"this machine is not ready: {', '.join(problems)}")
