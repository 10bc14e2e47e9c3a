"""Tiny real data: pairs whose texts share rare words, so that a small encoder learns something in seconds."""

import time

import numpy as np
import pytest
import ray
import webdataset as wds
from ray.cluster_utils import Cluster

NUM_TRAIN, NUM_HELDOUT = 330, 60
DEADLINE_S = 240
EPOCHS_PER_ROUND = 6  # a round of seconds, so that there is time to interrupt it
WORDS = [
    f"{a}{b}"
    for a in ("lo", "mi", "ra", "tu", "se", "ka")
    for b in ("bex", "dol", "fin", "gar", "hup")
]


def write_shards(folder, num_pairs, pairs_per_shard, seed):
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for shard, first in enumerate(range(0, num_pairs, pairs_per_shard)):
        with wds.TarWriter(str(folder / f"shard-{shard:06d}.tar"), mtime=0) as writer:
            for number in range(first, min(first + pairs_per_shard, num_pairs)):
                words = rng.choice(WORDS, 6)
                writer.write(
                    {
                        "__key__": f"{number:06d}",
                        "txt": " ".join(words[:4]),
                        "py": "return " + " + ".join(words[2:]),
                        "json": {"qualname": f"f{number}", "path": "m.py", "line": number},
                    }
                )


def wait_for(condition, process=None):
    """Wait until something is so while a process is at work; it must not end before."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert process is None or process.poll() is None, "it ended too soon"
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_tiny_data(folder)
    return folder


def write_tiny_data(folder):
    write_shards(folder / "train", NUM_TRAIN, 70, seed=0)
    write_shards(folder / "heldout", NUM_HELDOUT, 60, seed=1)


@pytest.fixture(scope="session")
def tiny_overrides(tiny_data):
    return tiny_settings(tiny_data)


def tiny_settings(tiny_data):
    """Overrides of the quickstart configuration that make it run in a minute."""
    return [
        f"data.train={tiny_data}/train/shard-*.tar",
        f"data.heldout={tiny_data}/heldout/shard-*.tar",
        "rounds=2",
        "encoder.width=32",
        "encoder.dim=16",
        "encoder.vocab_size=300",
        "train.batch_size=8",
        "train.log_every_steps=5",
        "train.checkpoint_every_steps=60",
        "train.optimizer.warmup_steps=5",
        "selection.graph.num_neighbors=6",
        "selection.hardness.cluster_size=8",
        "selection.hardness.margin=null",
        "selection.spectral.fan_out=4",
        f"selection.refresh.epochs_per_round={EPOCHS_PER_ROUND}",
        "selection.embed.num_workers=1",
    ]


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
