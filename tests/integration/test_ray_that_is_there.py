"""A run where Ray is there already: beside it, or as a job of it."""

import subprocess
import sys
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.job_submission import JobSubmissionClient

from tests.tiny_run import DEADLINE_S, NUM_BATCHES, command, complete, losses, wait_for

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_a_ray_of_the_same_user_is_left_alone(cluster, tiny_overrides, tmp_path):
    """The run wants two CPUs, and that Ray has one: had it been joined, the run would have been refused."""
    complete(
        tmp_path / "run", [*tiny_overrides, "rounds=1", "selection.refresh.epochs_per_round=1"]
    )
    ray.init(address=cluster.address)
    assert [node["Alive"] for node in ray.nodes()] == [True]
    assert ray.get(ray.remote(lambda: "at work").remote()) == "at work"


def takes_jobs(address):
    """Ray's agent, which starts jobs, comes some seconds after the rest."""
    try:
        return JobSubmissionClient(address).submit_job(entrypoint="true")
    except RuntimeError:
        return None


@pytest.fixture
def dashboard():
    """The address at which a cluster of two CPUs takes jobs."""
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 2, "include_dashboard": True, "dashboard_port": 0},
    )
    address = f"http://{cluster.head_node.webui_url}"
    wait_for(lambda: takes_jobs(address))
    yield address
    cluster.shutdown()


def test_as_a_job_of_it(dashboard, tiny_overrides, tmp_path):
    run_dir = tmp_path / "run"
    words = command(run_dir, [*tiny_overrides, "rounds=1", "selection.refresh.epochs_per_round=1"])
    entrypoint = [
        str(Path(word).resolve()) if word.startswith("configs/") else word for word in words
    ]
    ray_command = Path(sys.executable).with_name("ray")
    result = subprocess.run(
        [ray_command, "job", "submit", "--address", dashboard, "--", *entrypoint],
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
    )
    assert result.returncode == 0, (result.stdout + result.stderr)[-3000:]
    assert "round 0  held-out retrieval" in result.stdout
    assert max(losses(run_dir)) == NUM_BATCHES
