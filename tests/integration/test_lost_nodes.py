"""A node of a real Ray cluster is lost while a run is at work; it ends as one that lost none."""

import subprocess
from contextlib import contextmanager

import pytest

from selection.schedule import open_schedule
from tests.integration.conftest import DEADLINE_S, wait_for, write_shards
from tests.integration.test_run import (
    NUM_BATCHES,
    command,
    complete,
    losses,
    wait_for_step,
)

pytestmark = pytest.mark.ray

EPOCHS_PER_ROUND = 8
STEPS_PER_ROUND = EPOCHS_PER_ROUND * NUM_BATCHES


@pytest.fixture(scope="module")
def overrides(tiny_overrides):
    return [
        *tiny_overrides,
        f"selection.refresh.epochs_per_round={EPOCHS_PER_ROUND}",
        "selection.refresh.keep_ranks=false",  # each rank needs a CPU of its own
        "train.log_every_steps=1",
        "train.checkpoint_every_steps=20",
    ]


@pytest.fixture(scope="module")
def undisturbed(overrides, tmp_path_factory):
    """On this machine, where ranks need no CPU of their own and stay between rounds; which changes no loss."""
    run_dir = tmp_path_factory.mktemp("runs") / "undisturbed"
    complete(run_dir, [*overrides, "selection.refresh.keep_ranks=true"])
    return run_dir


@contextmanager
def running(cluster, run_dir, overrides):
    """A run on the cluster; it must end well."""
    screen = run_dir.with_suffix(".txt")
    with screen.open("w") as file:
        process = subprocess.Popen(
            [*command(run_dir, overrides), "--address", cluster.address],
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
        assert process.wait(DEADLINE_S) == 0, screen.read_text()[-3000:]
    finally:
        process.kill()
        process.wait()


def schedules(run_dir):
    folders = sorted((run_dir / "schedules").iterdir())
    return [open_schedule(folder) for folder in folders]


@pytest.mark.slow
def test_a_node_that_is_lost_in_training_and_replaced(cluster, overrides, undisturbed, tmp_path):
    run_dir = tmp_path / "run"
    node = cluster.add_node(num_cpus=1)
    with running(cluster, run_dir, overrides) as process:
        wait_for_step(run_dir, 30, process)
        cluster.remove_node(node, allow_graceful=False)
        assert max(losses(run_dir)) < STEPS_PER_ROUND
        cluster.add_node(num_cpus=1)
    assert "going on from" in (run_dir / "logs" / "latest" / "rank-0.log").read_text()
    assert [s.content_hash for s in schedules(run_dir)] == [
        s.content_hash for s in schedules(undisturbed)
    ]
    assert losses(run_dir) == losses(undisturbed)


@pytest.mark.slow
def test_a_node_that_is_lost_in_training_and_stays_away(cluster, overrides, undisturbed, tmp_path):
    """The ranks go on with fewer: other sums of gradients, but the same ids in the same order."""
    run_dir = tmp_path / "run"
    node = cluster.add_node(num_cpus=1)
    fewer = ["train.min_ranks=1", "ray.join_timeout_s=30"]
    with running(cluster, run_dir, [*overrides, *fewer]) as process:
        wait_for_step(run_dir, 30, process)
        cluster.remove_node(node, allow_graceful=False)
    assert "training on 1 ranks instead of 2" in run_dir.with_suffix(".txt").read_text()
    found, expected = losses(run_dir), losses(undisturbed)
    assert list(found) == list(expected)
    first = range(1, STEPS_PER_ROUND + 1)  # the second schedule depends on the weights
    assert [found[step] for step in first] == pytest.approx(
        [expected[step] for step in first], rel=0.05
    )
    assert len(schedules(run_dir)) == 2


@pytest.mark.slow
def test_a_node_that_is_lost_in_embedding_and_replaced(cluster, overrides, tmp_path):
    """Shards that were finished stay, and the others are embedded elsewhere."""
    write_shards(tmp_path / "data", 2000, 50, seed=0)
    overrides = [
        *overrides,
        f"data.train={tmp_path}/data/shard-*.tar",
        "selection.refresh.epochs_per_round=1",
        "selection.refresh.embeddings=computed",
    ]
    alone, run_dir = tmp_path / "alone", tmp_path / "run"
    complete(alone, [*overrides, "selection.refresh.keep_ranks=true"])

    cluster.add_node(num_cpus=1)
    selecting = {"num_cpus": 1, "labels": {"work": "selection"}}
    node = cluster.add_node(**selecting)
    with running(
        cluster, run_dir, [*overrides, "ray.selection_labels={work: selection}"]
    ) as process:
        shards = run_dir / "embeddings" / "round-00000" / "train"
        wait_for(lambda: list(shards.glob("shard-*.npy")), process)
        cluster.remove_node(node, allow_graceful=False)
        assert len(list(shards.glob("shard-*.npy"))) < 40
        cluster.add_node(**selecting)
    assert "an embedding worker died" in (run_dir / "logs" / "latest" / "driver.log").read_text()
    assert losses(run_dir) == losses(alone)
