"""Estimates against what the real parts take, at sizes that a test can afford."""

import os
import tracemalloc

import numpy as np
import pytest

from launcher.cpus import usable_cpus
from launcher.plan.data import count_splits
from launcher.plan.disk import disk, embeddings_bytes, index_bytes
from launcher.plan.hardware import memory_bytes, resources
from launcher.plan.memory import ENTRIES_PER_NEIGHBOR, graph_bytes, rank_memory, selection_memory
from launcher.plan.work import neighbor_flops, reads
from selection.affinity import build_affinity
from selection.embeddings import EmbeddingStore
from selection.knn import find_neighbors
from selection.select import choose
from selection.shards import build_index
from trainer.config import TrainConfig
from trainer.sizes import Sizes

GIB = 1024**3


def unit_rows(rng, num_rows, dim):
    rows = rng.standard_normal((num_rows, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def folder_bytes(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def shards(write_shard, tmp_path):
    for number in range(3):
        write_shard(tmp_path / f"train-{number:03}.tar", 400)
    write_shard(tmp_path / "heldout-0.tar", 5)
    return sorted(tmp_path.glob("train-*.tar"))


@pytest.fixture
def config(make_config, shards, tmp_path):
    return make_config(f"data.train={tmp_path}/train-*.tar", "encoder.dim=24")


def test_index(config, shards, tmp_path):
    build_index(shards, tmp_path / "index")
    planned = index_bytes(count_splits(config)[0])
    assert planned == pytest.approx(folder_bytes(tmp_path / "index"), rel=0.2)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_embeddings(config, tmp_path, dtype):
    train = count_splits(config)[0]
    store = EmbeddingStore(tmp_path / "embeddings", [400] * 3, {"dtype": dtype})
    rows = unit_rows(np.random.default_rng(0), 400, 24)
    for shard in range(3):
        store.write_shard(shard, rows, rows, np.zeros((2, 400), np.uint64))
    store.complete()
    planned = embeddings_bytes(train, 24, dtype)
    assert planned == pytest.approx(folder_bytes(tmp_path / "embeddings"), rel=0.1)


def test_graph_and_the_memory_of_selection_are_upper_bounds(make_config):
    """How many links come twice depends on the data; here more do than on code search, which is planned with.

    The search by cells holds blocks of some 20 MB, which count at this size alone.
    """
    num_pairs, dim = 8192, 64
    overrides = f"encoder.dim={dim}", "train.batch_size=64", "selection.graph.index=flat"
    config = make_config(*overrides)
    rng = np.random.default_rng(0)
    U, V = (unit_rows(rng, num_pairs, dim) for _ in range(2))
    neighbors = find_neighbors(U, V, config.selection.graph)
    graph = build_affinity(U, V, neighbors, 64, 0.07)
    held = graph.data.nbytes + graph.indices.nbytes + graph.indptr.nbytes
    repeated = graph.nnz / num_pairs / 32 / ENTRIES_PER_NEIGHBOR
    assert 0.5 < repeated < 1
    assert graph_bytes(num_pairs, 32) * repeated == pytest.approx(held, rel=0.02)

    choose((U[:512], V[:512]), 64, 0.07, config.selection)  # Numba compiles, in a fresh clone
    tracemalloc.start()
    choose((U, V), 64, 0.07, config.selection)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    planned = selection_memory(config, num_pairs)
    beside = planned.total_bytes - planned.process_bytes - U.nbytes - V.nbytes
    assert 0.5 * beside < peak < 1.1 * beside


def test_reads_of_an_epoch_in_random_batches(make_config, write_shard, tmp_path, monkeypatch):
    """Pairs that lie apart are a request each; an embedding pass reads whole blocks."""
    shard = write_shard(tmp_path / "train-0.tar", 600, num_bytes=50_000)
    write_shard(tmp_path / "heldout-0.tar", 5)
    config = make_config(f"data.train={shard}", "selection.embed.batch_size=300")
    train = count_splits(config)[0]
    index = build_index([shard], tmp_path / "index")
    requests = []
    pread = os.pread

    def counted(descriptor, num_bytes, offset):
        requests.append(num_bytes)
        return pread(descriptor, num_bytes, offset)

    monkeypatch.setattr(os, "pread", counted)
    epoch, embed, _ = reads(config, train, num_steps=9, num_epochs=1)
    for batch in np.random.default_rng(0).permutation(600).reshape(-1, 4):
        index.read(batch)
    assert epoch.num_requests == pytest.approx(len(requests), rel=0.1)
    assert sum(requests) == pytest.approx(epoch.num_bytes, rel=0.1)
    requests.clear()
    for first in (0, 300):
        index.read(np.arange(first, first + 300))
    assert embed.num_requests == pytest.approx(len(requests), abs=2)
    half, *_ = reads(config, train, num_steps=9, num_epochs=2)  # as where batches are left out
    assert half.num_requests == epoch.num_requests / 2


def test_the_search_grows_less_than_the_square():
    assert neighbor_flops(4_000, 64, "auto") == 4 * 4_000**2 * 64
    assert neighbor_flops(10**6, 64, "flat") == 4 * 10**12 * 64
    ratio = neighbor_flops(10**8, 64, "auto") / neighbor_flops(10**6, 64, "auto")
    assert ratio == pytest.approx(1000)


def test_zero_spreads_what_it_says():
    sizes = Sizes(1000, 1, 50, 1)
    per_stage = {
        stage: rank_memory(TrainConfig(batch_size=8, num_ranks=4, zero_stage=stage), sizes, 16)
        for stage in (0, 1, 2, 3)
    }
    assert [memory.weights_bytes for memory in per_stage.values()] == [4000, 4000, 4000, 1000]
    assert [memory.gradients_bytes for memory in per_stage.values()] == [4000, 4000, 1000, 1000]
    buckets = 2 * 4 * 1000
    assert [memory.optimizer_bytes for memory in per_stage.values()] == [
        8000,
        *[12_000 / 4 + buckets] * 3,
    ]
    assert {memory.activations_bytes for memory in per_stage.values()} == {4 * 2 * 50}


@pytest.mark.parametrize(
    ("text", "expected"),
    [("480G", 480 * GIB), ("2T", 2048 * GIB), ("1024", GIB), ("0", None), ("lots", None)],
)
def test_memory_as_sbatch_reads_it(text, expected):
    assert memory_bytes(text) == expected


def test_hardware_is_what_slurm_is_asked_for_or_this_machine(make_config, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    here = resources(make_config())
    assert (here.where, here.num_nodes, here.cpus_per_node) == ("this machine", 1, usable_cpus())
    assert here.memory_per_node_bytes > GIB / 4
    slurm = {"nodes": 3, "cpus_per_node": 16, "gpus_per_node": 4, "memory_per_node": "64G"}
    asked = resources(make_config(slurm=slurm))
    assert (asked.where, asked.num_nodes, asked.gpus_per_node) == ("slurm", 3, 4)
    assert asked.memory_per_node_bytes == 64 * GIB


def test_what_is_judged_lies_there_twice_while_a_round_is_judged(
    make_config, write_shard, tmp_path
):
    shard = write_shard(tmp_path / "train-0.tar", 600)
    write_shard(tmp_path / "heldout-0.tar", 50)
    found = {}
    for rounds in (1, 2):
        config = make_config(f"data.train={shard}", "selection.strategy=random", f"rounds={rounds}")
        splits = count_splits(config)
        found[rounds] = disk(config, splits, num_parameters=1000)
        judged = embeddings_bytes(splits[1], config.encoder.dim, config.selection.embed.dtype)
        assert found[rounds].embeddings_bytes == judged
    assert (found[1].judged_bytes, found[2].judged_bytes) == (0, judged)
    per_schedule = found[1].schedules_bytes
    assert found[2].peak_bytes - found[1].peak_bytes == pytest.approx(judged + per_schedule)
