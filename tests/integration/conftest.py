"""Ray clusters of several nodes on this machine."""

import pytest
import ray
from ray.cluster_utils import Cluster


@pytest.fixture
def cluster():
    """A real Ray cluster of one node with one CPU; tests add others. A lost node is noticed within seconds."""
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 1,
            "include_dashboard": False,
            "_system_config": {"health_check_period_ms": 500, "health_check_failure_threshold": 3},
        },
    )
    yield cluster
    ray.shutdown()
    cluster.shutdown()
