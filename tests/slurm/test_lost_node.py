"""A node is lost with everything that runs on it; SLURM starts the job again, and it goes on from its checkpoint."""

import pytest

from tests.integration.test_run import losses
from tests.slurm.cluster import wait_until
from tests.slurm.test_two_nodes import RUN_S, log, wait_for_first_step, wait_for_restart
from trainer.checkpoint import complete_checkpoints

pytestmark = [pytest.mark.slurm, pytest.mark.ray]


@pytest.mark.parametrize("node", ["n1", "n2"])  # the one of the head, and one that only works
def test_a_node_is_killed(cluster, submit, overrides, alone, tmp_path, node):
    run_dir = tmp_path / "run"
    job = submit(run_dir, *overrides)
    wait_for_first_step(cluster, job, run_dir)
    wait_until(lambda: complete_checkpoints(run_dir / "checkpoints"), "checkpoint", 60)
    cluster.crash_node(node)
    wait_for_restart(cluster, job, run_dir, 1, 90)
    cluster.start_node(node)
    assert cluster.wait_for_end(job, RUN_S) == "COMPLETED", log(run_dir)
    assert "going on from step" in log(run_dir)
    assert losses(run_dir) == losses(alone)
