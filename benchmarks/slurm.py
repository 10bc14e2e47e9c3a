"""A run inside SLURM: seconds from the start of its job to the first step, and random preemptions of one run.

    sh tests/slurm/install.sh && python -m benchmarks.slurm      # as root, on Debian

SLURM is the real one of `tests/slurm`, two nodes on this machine; the run is the quickstart's on 330 small pairs, with
a rank on each node. A job of a partition that goes first takes both nodes at a random moment, ten times, about half of
them before the first step of an attempt; SLURM gives the run 30 s. Afterwards every step must have the loss of a run
that nobody disturbed. Writes results/slurm.{json,md}; `--parts` measures some of it anew and leaves the rest.
"""

import argparse
import json
import os
import random
import re
import statistics
import subprocess
import sys
import time
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from launcher.run_dir import read_lines
from tests.integration.conftest import tiny_settings, write_tiny_data
from tests.integration.test_run import losses
from tests.slurm.cluster import (
    OVER,
    SlurmCluster,
    running_cluster,
    submitted_job,
    wait_until,
    why_not,
)
from trainer.checkpoint import complete_checkpoints

RESULTS = Path(__file__).parent / "results"
RANK_SPANS = {
    "importing torch and DeepSpeed": "Ray Train: a controller and two ranks",
    "joining the other ranks": "ranks: imports",
    "building the engine": "ranks: their process group",
    "training from": "ranks: DeepSpeed's engine",
}
"""What the log of a rank says at the end of each span."""

OURS = ("index and encoder", "first step")
"""Spans that are neither packages nor services starting."""

LONGEST_DELAY_S = 60
"""From the start of an attempt to its preemption; the first step is taken after about half of it."""

_RUN_S = 600
PACKAGES = ("ray", "torch", "deepspeed")
IMPORTED = ("launcher.execute", "ray.train", "torch", "deepspeed", "trainer.session")
PARTS = ("imports", "starts", "preemptions")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--preemptions", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if reason := why_not():
        print(reason, file=sys.stderr)
        return 1
    file = RESULTS / "slurm.json"
    found = json.loads(file.read_text()) if set(args.parts) < set(PARTS) else {}
    found["machine"] = f"{os.cpu_count()} CPUs"
    found["versions"] = {package: version(package) for package in PACKAGES}
    if "imports" in args.parts:
        found["imports"] = {name: [time_import(name) for _ in range(3)] for name in IMPORTED}
    if set(args.parts) != {"imports"}:
        with running_cluster() as cluster:
            write_tiny_data(cluster.folder / "data")
            if "starts" in args.parts:
                found["starts"] = [time_start(cluster, number) for number in range(args.starts)]
            if "preemptions" in args.parts:
                rng = random.Random(args.seed)
                found["preemptions"] = preempt(cluster, args.preemptions, rng)
    file.write_text(json.dumps(found, indent=2) + "\n")
    text = describe(found)
    RESULTS.joinpath("slurm.md").write_text(text)
    print(text)
    return 0


def time_import(name: str) -> float:
    """Seconds until a fresh Python has imported a module."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {name}"], check=True, capture_output=True)
    return time.perf_counter() - start


def submit(cluster: SlurmCluster, run_dir: Path, *overrides: str) -> int:
    """Submit the small run on both nodes; the number of the job."""
    words = [
        *("submit", "configs/quickstart.yaml", "--nodes", "2", "--cpus-per-node", "1"),
        *("--time", "60", "--partition", "low", f"run_dir={run_dir}"),
        *tiny_settings(cluster.folder / "data"),
        "train.log_every_steps=1",
        *overrides,
    ]
    printed = cluster.run(sys.executable, "-m", "launcher.cli", *words)
    return submitted_job(printed)


def time_start(cluster: SlurmCluster, number: int) -> dict[str, float]:
    """Seconds of every span from the start of a job to the first step of its run."""
    run_dir = cluster.folder / f"start-{number}"
    job = submit(cluster, run_dir, "selection.refresh.epochs_per_round=400")
    wait_until(lambda: read_lines(run_dir / "metrics" / "train.jsonl"), "first step", 180)
    started_at = datetime.fromisoformat(cluster.job(job)["StartTime"]).timestamp()
    cluster.run("scancel", str(job))
    cluster.wait_for_end(job, 60)
    return spans(run_dir, started_at)


def spans(run_dir: Path, started_at: float) -> dict[str, float]:
    """See `time_start`; SLURM says to the second when the job started."""
    logs = run_dir / "logs" / "attempt-001"
    stages = read_lines(run_dir / "metrics" / "stages.jsonl")
    moments = {"SLURM and Ray; imports of the run": (logs / "versions.json").stat().st_mtime}
    moments["index and encoder"] = next(s["time"] for s in stages if s["stage"] == "encoder")
    text = (logs / "rank-0.log").read_text()
    for words, name in RANK_SPANS.items():
        (said,) = re.findall(rf"^(\S+ \S+) INFO trainer\.\w+: {words}", text, re.MULTILINE)
        moments[name] = datetime.fromisoformat(said.replace(",", ".")).timestamp()
    moments["first step"] = read_lines(run_dir / "metrics" / "train.jsonl")[0]["time"]
    ends = [started_at, *moments.values()]
    return {name: end - ends[place] for place, (name, end) in enumerate(moments.items())}


def preempt(cluster: SlurmCluster, count: int, rng: random.Random) -> dict[str, Any]:
    """Take both nodes from a run `count` times, then let it end, beside one that is left alone."""
    epochs = f"selection.refresh.epochs_per_round={6 * count}"
    alone, run_dir = cluster.folder / "alone", cluster.folder / "preempted"
    cluster.wait_for_end(submit(cluster, alone, epochs), _RUN_S)
    job = submit(cluster, run_dir, epochs, f"slurm.max_restarts={2 * count}")
    urgent = cluster.folder / "urgent.sh"
    urgent.write_text("#!/bin/sh\nsleep 1\n")
    events = []
    for number in range(count):
        wait_until(lambda n=number: has_begun(cluster, job, run_dir, n), f"attempt {number}", 120)
        time.sleep(delay := rng.uniform(0, LONGEST_DELAY_S))
        if cluster.state(job) in OVER:
            break
        cluster.run("sbatch", "-N2", "--exclusive", "-p", "high", "-o", "/dev/null", str(urgent))
        wait_until(lambda n=number: restarts(cluster, job) > n, f"preemption {number + 1}", 90)
        reached, saved = len(losses(run_dir)), last_checkpoint(run_dir)
        events.append({"after_s": delay, "step": reached, "repeated_steps": reached - saved})
        print(events[-1], file=sys.stderr)
    state = cluster.wait_for_end(job, _RUN_S)
    return {
        "events": events,
        "state": state,
        "steps": len(losses(run_dir)),
        "same_losses": losses(run_dir) == losses(alone),
    }


def has_begun(cluster: SlurmCluster, job: int, run_dir: Path, attempt: int) -> bool:
    """Whether the script of an attempt runs, so that signals reach it; or the run is over."""
    folder = run_dir / "logs" / "submit-001" / f"job-{job}.{attempt}"
    return folder.exists() or cluster.state(job) in OVER


def restarts(cluster: SlurmCluster, job: int) -> int:
    return int(cluster.job(job)["Restarts"])


def last_checkpoint(run_dir: Path) -> int:
    """Its step; 0 where there is none."""
    found = complete_checkpoints(run_dir / "checkpoints")
    return int(found[-1].name.removeprefix("step-")) if found else 0


def describe(found: dict[str, Any]) -> str:
    """The report."""
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    starts, preemptions = found["starts"], found["preemptions"]
    events = preemptions["events"]
    totals = [sum(each.values()) for each in starts]
    ours = [sum(each[name] for name in OURS) for each in starts]
    return "\n".join(
        [
            "# A run inside SLURM",
            "",
            f"`python -m benchmarks.slurm`: two nodes on one machine of {found['machine']}; {versions}.",
            "",
            "## From the start of the job to the first step",
            "",
            f"Medians of {len(starts)} starts. SLURM tells the start to the second.",
            "",
            "| span | s |",
            "|---|---|",
            *(
                f"| {name} | {statistics.median(each[name] for each in starts):.1f} |"
                for name in starts[0]
            ),
            f"| all | {statistics.median(totals):.1f} |",
            f"| {' and '.join(OURS)}: what is Coterie's own | {statistics.median(ours):.1f} |",
            "",
            "Ray Train's workers import torch before a rank of ours begins, and a rank imports DeepSpeed when it joins "
            "the others. A fresh Python needs for an import alone, medians of three:",
            "",
            "| import | s |",
            "|---|---|",
            *(
                f"| `{name}` | {statistics.median(each):.1f} |"
                for name, each in found["imports"].items()
            ),
            "",
            "## Preemptions",
            "",
            f"{len(events)} preemptions of one run, at random moments of its attempts; it ended as "
            f"{preemptions['state']} after {preemptions['steps']} steps, without a person. Its losses are "
            f"{'those' if preemptions['same_losses'] else 'NOT those'} of a run that was left alone, at every step.",
            "",
            "| seconds into the attempt | steps reached | steps repeated afterwards |",
            "|---|---|---|",
            *(
                f"| {each['after_s']:.0f} | {each['step']} | {each['repeated_steps']} |"
                for each in events
            ),
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
