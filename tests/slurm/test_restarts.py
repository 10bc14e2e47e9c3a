"""Who brings a job back, and when; a stub for the run stops as the run does, in a moment."""

import pytest

from launcher.stopping import EXIT_STOPPED
from tests.slurm.cluster import wait_until

pytestmark = pytest.mark.slurm

RUN = f"""
import os, sys, time
if "--run" in sys.argv:
    (file,) = (word.partition("=")[2] for word in sys.argv if word.startswith("--stop-file="))
    open(os.path.join(os.path.dirname(file), "begun"), "w").close()
    while not os.path.exists(file):
        time.sleep(0.1)
    sys.exit({EXIT_STOPPED})
time.sleep(600)
"""


@pytest.fixture
def start(cluster, submit, stub, tmp_path):
    """Submit a job and wait until its run is at work; its number, and its folder."""

    def start(*arguments):
        job = submit(tmp_path / "run", stub(RUN), *arguments)
        folder = tmp_path / "run" / "logs" / "submit-001"
        wait_until((folder / f"job-{job}.0" / "begun").exists, "begin", 30)
        return job, folder

    return start


def ask_to_stop(cluster, job):
    """As SLURM does before the time limit."""
    cluster.run("scancel", "--batch", "--signal=USR1", str(job))


def test_it_requeues_itself_and_has_a_folder_for_each_attempt(cluster, start):
    job, folder = start()
    for _ in range(3):
        ask_to_stop(cluster, job)
    wait_until((folder / f"job-{job}.1" / "begun").exists, "next attempt", 60)
    assert cluster.job(job)["Restarts"] == "1"


def test_it_stops_before_its_time_limit(cluster, start):
    """The signal is SLURM's own, which comes up to a minute earlier than it is asked for."""
    job, folder = start("--time", "2", "slurm.stop_before_end_s=30")
    wait_until((folder / f"job-{job}.1" / "begun").exists, "next attempt", 150)
    assert cluster.job(job)["Restarts"] == "1"


def test_where_that_is_not_allowed_a_copy_waits_for_its_end(cluster, start):
    job, folder = start("slurm.extra_args=[--no-requeue]")
    ask_to_stop(cluster, job)
    assert cluster.wait_for_end(job, 30) == "FAILED"  # by its status, 75
    wait_until((folder / f"job-{job + 1}.0" / "begun").exists, "the copy", 30)
    assert cluster.job(job + 1)["JobName"] == "run"
    cluster.run("scancel", str(job + 1))
    assert cluster.wait_for_end(job + 1, 30) == "CANCELLED"


def test_not_for_ever(cluster, start):
    job, folder = start("slurm.max_restarts=0")
    ask_to_stop(cluster, job)
    assert cluster.wait_for_end(job, 30) == "FAILED"
    assert "slurm.max_restarts: the run has been restarted 0 times" in (
        (folder / f"slurm-{job}.out").read_text()
    )


@pytest.mark.parametrize("asked_before", [False, True])
def test_a_cancelled_job_stays_away(cluster, start, asked_before):
    job, _ = start()
    if asked_before:
        ask_to_stop(cluster, job)
    cluster.run("scancel", str(job))
    assert cluster.wait_for_end(job, 30) == "CANCELLED"
    assert not cluster.run("squeue", "--noheader")
