"""A node is lost with everything that runs on it; SLURM starts the job again, and it goes on from its checkpoint."""

import pytest

from tests.slurm.cluster import wait_until
from tests.slurm.test_two_nodes import RUN_S, START_S, log, wait_for_first_step, wait_for_restart
from tests.tiny_run import losses
from trainer.checkpoint import complete_checkpoints

pytestmark = [pytest.mark.slurm, pytest.mark.ray]


def test_both_nodes_are_killed_one_after_the_other(cluster, submit, finished, tmp_path):
    """First the one that only works, then that of the head, as soon as the run has gone on."""
    run_dir = tmp_path / "run"
    job = submit(run_dir)
    wait_for_first_step(cluster, job, run_dir)
    wait_until(lambda: complete_checkpoints(run_dir / "checkpoints"), "checkpoint", 60)
    for number, node in enumerate(("n2", "n1"), start=1):
        cluster.crash_node(node)
        wait_for_restart(cluster, job, run_dir, number, 90)
        cluster.start_node(node)
        wait_until(
            lambda: log(run_dir).count("going on from step") == number,  # noqa: B023
            f"start {number + 1}",
            START_S,
        )
    assert cluster.wait_for_end(job, RUN_S) == "COMPLETED", log(run_dir)
    assert log(run_dir).count("going on from step") == 2
    assert losses(run_dir) == losses(finished[0])
