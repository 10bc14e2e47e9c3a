"""A node of a real Ray cluster is lost while a run is at work; it ends as one that lost none."""

import subprocess
from contextlib import contextmanager

import pytest

from selection.schedule import open_schedule
from tests.tiny_run import (
    BATCH_SIZE,
    DEADLINE_S,
    STEPS_PER_ROUND,
    command,
    complete,
    losses,
    wait_for,
    wait_for_step,
    write_shards,
)

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def overrides(tiny_overrides):
    return [
        *tiny_overrides,
        "selection.refresh.keep_ranks=false",  # each rank needs a CPU of its own
        "train.checkpoint_every_steps=20",
    ]


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
def test_nodes_that_are_lost_in_embedding_and_in_training_and_replaced(
    cluster, overrides, tmp_path
):
    """Shards that were finished stay, and the others are embedded elsewhere; training goes on as it was."""
    write_shards(tmp_path / "data", 2000, 50, seed=0)
    overrides = [
        *overrides,
        f"data.train={tmp_path}/data/shard-*.tar",
        "selection.refresh.epochs_per_round=1",
        "selection.refresh.embeddings=computed",
    ]
    alone, run_dir = tmp_path / "alone", tmp_path / "run"
    # here, ranks need no CPU of their own and stay between rounds; which changes no loss
    complete(alone, [*overrides, "selection.refresh.keep_ranks=true"])

    training = {"num_cpus": 1, "labels": {"work": "training"}}
    selecting = {"num_cpus": 1, "labels": {"work": "selection"}}
    apart = ["ray.train_labels={work: training}", "ray.selection_labels={work: selection}"]
    cluster.add_node(**training)
    of_a_rank, of_a_worker = cluster.add_node(**training), cluster.add_node(**selecting)
    with running(cluster, run_dir, [*overrides, *apart]) as process:
        shards = run_dir / "embeddings" / "round-00000" / "train"
        wait_for(lambda: list(shards.glob("shard-*.npy")), process)
        cluster.remove_node(of_a_worker, allow_graceful=False)
        assert len(list(shards.glob("shard-*.npy"))) < 40
        cluster.add_node(**selecting)

        last = 2000 // BATCH_SIZE  # of the first round
        wait_for_step(run_dir, last + 30, process)
        cluster.remove_node(of_a_rank, allow_graceful=False)
        assert max(losses(run_dir)) < 2 * last
        cluster.add_node(**training)
    assert "an embedding worker died" in (run_dir / "logs" / "latest" / "driver.log").read_text()
    assert "going on from" in (run_dir / "logs" / "latest" / "rank-0.log").read_text()
    assert [s.content_hash for s in schedules(run_dir)] == [
        s.content_hash for s in schedules(alone)
    ]
    assert losses(run_dir) == losses(alone)


@pytest.mark.slow
def test_a_node_that_is_lost_in_training_and_stays_away(cluster, overrides, finished, tmp_path):
    """The ranks go on with fewer: other sums of gradients, but the same ids in the same order."""
    run_dir = tmp_path / "run"
    node = cluster.add_node(num_cpus=1)
    fewer = ["train.min_ranks=1", "ray.join_timeout_s=30"]
    with running(cluster, run_dir, [*overrides, *fewer]) as process:
        wait_for_step(run_dir, 30, process)
        cluster.remove_node(node, allow_graceful=False)
    assert "training on 1 ranks instead of 2" in run_dir.with_suffix(".txt").read_text()
    found, expected = losses(run_dir), losses(finished[0])
    assert list(found) == list(expected)
    first = range(1, STEPS_PER_ROUND + 1)  # the second schedule depends on the weights
    assert [found[step] for step in first] == pytest.approx(
        [expected[step] for step in first], rel=0.05
    )
    assert len(schedules(run_dir)) == 2
