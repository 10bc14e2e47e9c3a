"""One real SLURM for all tests of this folder, and jobs that do nothing but tell what they were given."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.slurm.cluster import running_cluster, submitted_job, why_not

_TELL = """
import glob, json, os, signal, sys, time
(logs,) = (word.removeprefix("--logs=") for word in sys.argv if word.startswith("--logs="))
with open(os.path.join(logs, os.environ["SLURMD_NODENAME"] + ".json"), "w") as file:
    json.dump({"words": sys.argv, "environ": dict(os.environ)}, file)
while "--run" not in sys.argv or len(glob.glob(glob.escape(logs) + "/n?.json")) < 2:
    time.sleep(0.1)  # as in a run, a worker ends when it is told to, and the head last
"""
"""Stands for the Python of two nodes: writes down its arguments and its environment."""


@pytest.fixture(scope="session")
def cluster():
    if reason := why_not():
        pytest.skip(reason)
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture
def coterie(cluster):
    """Run the command with the cluster's SLURM, and return how it ended."""

    def run(*arguments, **environ):
        return subprocess.run(
            [sys.executable, "-m", "launcher.cli", *map(str, arguments)],
            env={**cluster.environment, **environ},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    return run


@pytest.fixture
def submit(cluster, coterie, tiny_overrides):
    """Submit the tiny run, and return the number of the job; jobs that a test leaves behind are cancelled."""
    jobs = []

    def submit(run_dir, *arguments):
        result = coterie(
            *("submit", "configs/quickstart.yaml", "--nodes", 2, "--cpus-per-node", 1),
            *("--time", "10", *tiny_overrides, f"run_dir={json.dumps(str(run_dir))}", *arguments),
        )
        assert result.returncode == 0, result.stderr
        jobs.append(submitted_job(result.stdout))
        return jobs[-1]

    yield submit
    for job in jobs:
        cluster.run("scancel", str(job), check=False)
        cluster.wait_for_end(job, timeout_s=60)


@pytest.fixture
def stub(tmp_path):
    """Write a program that stands for the Python of the nodes, and return the override that names it."""

    def write(text):
        path = tmp_path / "stub"
        path.write_text(f"#!{sys.executable}\n{text}")
        path.chmod(0o755)
        return f"slurm.python={path}"

    return write


@pytest.fixture
def tell(cluster, submit, stub):
    """Submit a job that starts no Ray; what each node was given, by the node's name."""

    def run(run_dir, *arguments):
        job = submit(run_dir, stub(_TELL), *arguments)
        state = cluster.wait_for_end(job, timeout_s=60)
        log = (run_dir / "logs" / "submit-001" / f"slurm-{job}.out").read_text()
        assert state == "COMPLETED", log
        told = (run_dir / "logs" / "submit-001" / f"job-{job}.0").glob("n?.json")
        return {path.stem: json.loads(path.read_text()) for path in told}

    return run


def job_processes(job):
    """Processes of a job that still live, on all nodes."""
    mark = f"SLURM_JOB_ID={job}\0".encode()
    found = []
    for process in psutil.process_iter():
        try:
            environ = Path(f"/proc/{process.pid}/environ").read_bytes()
        except OSError:
            continue  # gone, or a zombie
        if mark in environ and process.pid != os.getpid():
            found.append(process)
    return found
