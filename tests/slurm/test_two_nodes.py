"""The tiny run on two nodes with every real part: SLURM, Ray, two DeepSpeed ranks, one on each node."""

from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from launcher.network import first_ephemeral_port
from launcher.network import listening_ports as listening_ports_here
from selection.schedule import open_schedule
from tests.slurm.cluster import OVER, wait_until
from tests.slurm.conftest import job_processes
from tests.tiny_run import losses

pytestmark = [pytest.mark.slurm, pytest.mark.ray]

START_S, RUN_S = 120, 300


def log(run_dir):
    return "".join(path.read_text() for path in run_dir.glob("logs/submit-001/slurm-*.out"))


def wait_for_first_step(cluster, job, run_dir):
    def has_begun():
        assert cluster.state(job) not in OVER, log(run_dir)
        return losses(run_dir)

    wait_until(has_begun, f"first step of job {job}", START_S)


def wait_for_restart(cluster, job, run_dir, number, timeout_s=60):
    """Wait until the job is back in the queue for the `number`th time, or say what it printed."""
    try:
        wait_until(
            lambda: cluster.job(job)["Restarts"] == str(number), f"restart {number}", timeout_s
        )
    except AssertionError as error:
        pytest.fail(f"{error}: {cluster.state(job)}\n{log(run_dir)}")


def listening_ports(job):
    """Ports on which Ray listens, and who; srun takes ports by itself, and so do torch's ranks."""
    ports = {}
    for process in job_processes(job):
        with suppress(psutil.NoSuchProcess):  # Ray's workers come and go
            family = [process, *process.parents()]
            is_rank = any("RayTrainWorker" in " ".join(each.cmdline()) for each in family)
            if is_rank or process.name() == "srun":
                continue
            command = " ".join(process.cmdline())
            connections = process.net_connections("tcp")
            ports |= {each.laddr.port: command for each in connections if each.status == "LISTEN"}
    return ports


def test_two_jobs_on_the_same_nodes(cluster, submit, finished, tmp_path):
    """Two jobs side by side keep apart; one is cancelled and leaves nothing; the other ends as a run without SLURM."""
    run_dirs = tmp_path / "kept", tmp_path / "cancelled"
    kept, cancelled = jobs = [submit(run_dir) for run_dir in run_dirs]
    for job, run_dir in zip(jobs, run_dirs, strict=True):
        wait_for_first_step(cluster, job, run_dir)
    assert [cluster.state(job) for job in jobs] == ["RUNNING"] * 2
    ports = [listening_ports(job) for job in jobs]
    assert ports[0]
    assert ports[0].keys().isdisjoint(ports[1])
    highest = first_ephemeral_port()
    outside = {
        port: name
        for port, name in [*ports[0].items(), *ports[1].items()]
        if not highest - 20_000 <= port < highest
    }
    assert not outside

    cluster.run("scancel", str(cancelled))
    assert cluster.wait_for_end(cancelled, 60) == "CANCELLED"
    wait_until(lambda: not job_processes(cancelled), "processes of the cancelled job", 40)
    assert not list(Path("/tmp").glob(f"ct-{cancelled}-*"))
    assert listening_ports_here().isdisjoint(ports[1])

    assert cluster.wait_for_end(kept, RUN_S) == "COMPLETED", log(run_dirs[0])
    assert losses(run_dirs[0]) == losses(finished[0])
    for number in range(2):
        hashes = {
            open_schedule(run_dir / "schedules" / f"round-0000{number}").content_hash
            for run_dir in (run_dirs[0], finished[0])
        }
        assert len(hashes) == 1
    ranks = run_dirs[0].glob("logs/submit-001/job-*/ray-n*/ray-train-app-worker-*.log")
    assert {path.parent.name for path in ranks} == {"ray-n1", "ray-n2"}
    assert not job_processes(kept)
    assert not list(Path("/tmp").glob(f"ct-{kept}-*"))
