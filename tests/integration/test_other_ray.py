"""A run beside another Ray of the same user."""

import pytest
import ray

from tests.integration.test_run import complete

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_a_ray_that_is_there_already_is_left_alone(cluster, tiny_overrides, tmp_path):
    """The run wants two CPUs, and that Ray has one: had it been joined, the run would have been refused."""
    complete(tmp_path / "run", [*tiny_overrides, "rounds=1"])
    ray.init(address=cluster.address)
    assert [node["Alive"] for node in ray.nodes()] == [True]
    assert ray.get(ray.remote(lambda: "at work").remote()) == "at work"
