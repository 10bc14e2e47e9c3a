"""A job that is asked to stop saves, goes back into the queue, and goes on at the very step."""

import pytest

from launcher.run_dir import read_lines
from tests.slurm.cluster import wait_until
from tests.slurm.test_two_nodes import RUN_S, log, wait_for_first_step, wait_for_restart
from tests.tiny_run import losses

pytestmark = [pytest.mark.slurm, pytest.mark.ray]


def test_stopped_at_its_start_and_preempted_and_requeued_in_training(
    cluster, submit, finished, tmp_path
):
    """Requeued by hand, all processes are told at once to end, so what came after the last checkpoint is done again."""
    run_dir = tmp_path / "run"
    job = submit(run_dir, "--partition", "low")

    # RUNNING comes before the script runs, and a signal before its traps is lost
    wait_until((run_dir / "logs" / "submit-001" / f"job-{job}.0").exists, "start", 30)
    cluster.run("scancel", "--batch", "--signal=USR1", str(job))  # as before the time limit
    wait_for_restart(cluster, job, run_dir, 1)

    wait_for_first_step(cluster, job, run_dir)
    script = tmp_path / "urgent.sh"
    script.write_text("#!/bin/sh\nsleep 1\n")
    cluster.run("sbatch", "-N2", "--exclusive", "-p", "high", "-o", "/dev/null", str(script))
    wait_for_restart(cluster, job, run_dir, 2)
    last = max(losses(run_dir))

    wait_until(lambda: max(losses(run_dir)) > last, "step after the preemption", 120)
    assert f"going on from step {last}\n" in log(run_dir)
    cluster.run("scontrol", "requeue", str(job))
    wait_for_restart(cluster, job, run_dir, 3)

    assert cluster.wait_for_end(job, RUN_S) == "COMPLETED", log(run_dir)
    assert log(run_dir).count("going on from step") == 2
    assert losses(run_dir) == losses(finished[0])
    assert {path.name for path in run_dir.glob("logs/submit-001/job-*")} == {
        f"job-{job}.{attempt}" for attempt in range(4)
    }


def test_an_orphan_beside_its_requeued_copy_stops(cluster, submit, tmp_path):
    """SLURM gives up a node on which the run goes on, and starts the job again on the other one."""
    run_dir = tmp_path / "run"
    job = submit(
        run_dir,
        *("--nodes", 1, "--cpus-per-node", 2),
        *("selection.refresh.epochs_per_round=400", "train.checkpoint_every_steps=100"),
    )
    wait_for_first_step(cluster, job, run_dir)
    rank_log = run_dir / "logs" / "attempt-001" / "rank-0.log"
    message = f"belongs to job {job}, attempt 1, process"
    with cluster.silent(cluster.job(job)["NodeList"]):
        wait_for_restart(cluster, job, run_dir, 1, 90)
        before = max(losses(run_dir))
        wait_until(lambda: message in rank_log.read_text(), "end of the orphan", 90)
        wait_until(lambda: "going on from step" in log(run_dir), "start of the copy", 90)
        wait_until(lambda: max(losses(run_dir)) > before, "steps of the copy", 90)
    steps = [line["step"] for line in read_lines(run_dir / "metrics" / "train.jsonl")]
    assert steps == list(range(1, len(steps) + 1))
    assert cluster.state(job) == "RUNNING"
