"""Selection by regions over a real Ray cluster, and a run that is divided."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import ray

from launcher.config import load_config
from launcher.run_dir import read_lines
from launcher.selecting import SelectTask, select_remotely
from selection.duplicates import hash_rows
from selection.embeddings import EmbeddingStore, store_blocks
from selection.examples import KINDS
from selection.regional import RegionalJob, choose_regionally
from selection.schedule import open_schedule
from selection.select import make_random_schedule
from tests.conftest import planted_pairs
from tests.tiny_run import NUM_TRAIN

pytestmark = pytest.mark.ray

SHARD_SIZES = [300, 0, 400, 130]


@pytest.fixture
def store(tmp_path):
    """A store of embeddings in shards, in half precision, and random batches of the round before."""
    U, V, _ = planted_pairs(num_clusters=83, per_cluster=10, dim=12)
    contents = hash_rows(U, V)
    embeddings = EmbeddingStore(tmp_path / "embeddings", SHARD_SIZES, {"dtype": "float16"})
    for shard, last in enumerate(np.cumsum(SHARD_SIZES)):
        own = slice(last - SHARD_SIZES[shard], last)
        if SHARD_SIZES[shard]:
            embeddings.write_shard(shard, U[own], V[own], contents[:, own])
    embeddings.complete()
    make_random_schedule(tmp_path / "before", len(U), 8, (0, 0), np.empty(0, np.int64), {})
    return embeddings.folder


@pytest.fixture
def cluster():
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def test_workers_make_the_schedule_that_one_process_makes(cluster, store, tmp_path):
    config = load_config(
        Path("configs/quickstart.yaml"),
        [
            "train.batch_size=8",
            "selection.hardness.cluster_size=8",
            "selection.regions.max_pairs=200",
            "selection.regions.cpus_per_region=1",
        ],
    )
    before = open_schedule(tmp_path / "before")
    task = SelectTask(
        tmp_path / "s", tmp_path / "before", store, config, 0.1, (0, 1), before.leftover,
        {"config_hash": config.hash}, tmp_path / "progress", tmp_path / "examples",
    )  # fmt: skip
    manifest = select_remotely(task, num_pairs=sum(SHARD_SIZES))
    schedule = open_schedule(tmp_path / "s", {"config_hash": config.hash})
    job = RegionalJob(8, 0.1, config.selection, (0, 1), np.array(before.leftover))
    here = choose_regionally(store_blocks(store), job)
    np.testing.assert_array_equal(schedule.batches, here.batches)
    np.testing.assert_array_equal(schedule.leftover, here.leftover)
    assert manifest["num_regions"] == 5
    assert manifest["changed_pairs"] > 0.5
    stages = {line["stage"]: line for line in read_lines(tmp_path / "progress")}
    assert all(
        stages[name]["done"] == stages[name]["total"] == 830 for name in ("divide", "regions")
    )
    (examples,) = read_lines(tmp_path / "examples")
    assert [example["kind"] for example in examples["batches"]] == list(KINDS)
    hardest = examples["batches"][0]
    ids = {i for confusion in hardest["confusions"] for i in confusion["ids"]}
    assert ids <= set(schedule.batches[hardest["batch"]].tolist())
    assert not (store / "regions").exists()


@pytest.mark.slow
def test_a_run_that_is_divided(tiny_overrides, tmp_path):
    overrides = [
        f"run_dir={tmp_path / 'run'}", "selection.regions.max_pairs=100",
        "selection.refresh.epochs_per_round=1",
    ]  # fmt: skip
    result = subprocess.run(
        [sys.executable, "-m", "launcher.cli", "run", "configs/quickstart.yaml", *tiny_overrides, *overrides],
        capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    assert "4 regions with" in result.stdout
    assert "regions" in result.stderr
    manifest = json.loads((tmp_path / "run/schedules/round-00001/manifest.json").read_text())
    assert manifest["num_pairs"] == NUM_TRAIN
    assert manifest["num_batches"] == NUM_TRAIN // 8
    assert manifest["batch_loss"] > manifest["random_batch_loss"]
