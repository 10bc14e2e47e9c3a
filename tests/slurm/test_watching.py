"""`coterie status` and `coterie cancel` on a job of the real SLURM."""

import json

import pytest

from launcher.run_dir import read_lines
from launcher.stopping import EXIT_STOPPED
from tests.slurm.test_two_nodes import wait_for_first_step
from trainer.checkpoint import complete_checkpoints

pytestmark = [pytest.mark.slurm, pytest.mark.ray]


def test_a_run_is_followed_and_stopped(cluster, coterie, submit, tmp_path):
    run_dir = tmp_path / "run"

    def status():
        (standing,) = json.loads(coterie("status", "--json", run_dir).stdout)
        return standing["state"], {each["job_id"]: each["state"] for each in standing["jobs"]}

    job = submit(run_dir, "selection.refresh.epochs_per_round=400")
    assert status() in [("queued", {job: "PENDING"}), ("running", {job: "RUNNING"})]
    wait_for_first_step(cluster, job, run_dir)
    assert status() == ("running", {job: "RUNNING"})

    cancelled = coterie("cancel", run_dir)
    assert cancelled.returncode == 0, cancelled.stderr
    assert f"job {job}: has saved and stopped" in cancelled.stdout
    assert cluster.wait_for_end(job, 60) == "FAILED"  # by its status
    assert cluster.job(job)["ExitCode"] == f"{EXIT_STOPPED}:0"
    assert cluster.job(job)["Restarts"] == "0"
    assert status() == ("stopped", {job: "FAILED"})
    steps = [line["step"] for line in read_lines(run_dir / "metrics" / "train.jsonl")]
    (*_, newest) = complete_checkpoints(run_dir / "checkpoints")
    assert newest.name == f"step-{steps[-1]:08d}"

    nothing = coterie("cancel", run_dir)
    assert nothing.returncode == 2
    assert "nothing to cancel, it is stopped" in nothing.stderr


def test_a_job_that_waits_is_cancelled(cluster, coterie, submit, tmp_path):
    job = submit(tmp_path / "run", "slurm.extra_args=[--begin=now+1hour]")
    assert "queued" in coterie("status", tmp_path / "run").stdout
    cancelled = coterie("cancel", tmp_path / "run")
    assert cancelled.stdout == f"job {job}: was PENDING, cancelled\n"
    assert cluster.state(job) == "CANCELLED"
    assert "stopped" in coterie("status", tmp_path / "run").stdout
