from concurrent.futures import ThreadPoolExecutor
from itertools import chain, combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selection.affinity import build_affinity
from selection.config import GraphConfig, SpectralConfig
from selection.exchange import exchange, round_robin
from selection.knn import find_neighbors
from selection.partition import (
    child_sizes,
    partition,
)
from selection.quality import captured_affinity, random_batches
from tests.conftest import planted_pairs
from tests.unit.selection.test_spectral import random_graph


def graph_of(U, V, batch_size, num_neighbors=8):
    neighbors = find_neighbors(U, V, GraphConfig(num_neighbors=num_neighbors))
    return build_affinity(U, V, neighbors, batch_size, 0.1)


def test_planted_clusters_are_found():
    U, V, cluster_ids = planted_pairs(num_clusters=24, per_cluster=16, dim=32)
    batches = partition(graph_of(U, V, 16), 16, SpectralConfig(), (0,))
    assert batches.shape == (24, 16)
    purity = np.mean([np.bincount(cluster_ids[batch]).max() / 16 for batch in batches])
    assert purity > 0.95


def test_two_levels_keep_sizes_exact_and_beat_random():
    U, V, _ = planted_pairs(num_clusters=60, per_cluster=20, dim=16)
    affinity = graph_of(U, V, 8)
    batches = partition(affinity, 8, SpectralConfig(fan_out=6, num_eigenvectors=6), (1,))
    np.testing.assert_array_equal(np.sort(batches.ravel()), np.arange(1200))
    random = random_batches(1200, 8, 150, np.random.default_rng(0))
    assert captured_affinity(affinity, batches) > 10 * captured_affinity(affinity, random)


def test_the_mapper_decides_where_not_what():
    U, V, _ = planted_pairs(num_clusters=30, per_cluster=20, dim=16)
    affinity, config = graph_of(U, V, 10), SpectralConfig(fan_out=4)

    def backwards(function, tasks):
        return [function(task) for task in list(tasks)[::-1]][::-1]

    plain = partition(affinity, 10, config, (3,))
    np.testing.assert_array_equal(plain, partition(affinity, 10, config, (3,), map_tasks=backwards))
    assert not np.array_equal(plain, partition(affinity, 10, config, (4,)))


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 12), st.integers(2, 5), st.integers(0, 200), st.integers(2, 5), st.integers(0, 9)
)
def test_any_graph_gives_every_node_once(num_batches, batch_size, num_links, fan_out, seed):
    graph = random_graph(num_batches * batch_size, num_links, seed).astype(np.float32)
    batches = partition(graph, batch_size, SpectralConfig(fan_out=fan_out), (seed,))
    assert batches.shape == (num_batches, batch_size)
    np.testing.assert_array_equal(np.sort(batches.ravel()), np.arange(num_batches * batch_size))


@given(st.integers(1, 5000), st.integers(2, 64))
def test_child_sizes(num_batches, fan_out):
    sizes = child_sizes(num_batches, fan_out)
    assert sizes.sum() == num_batches
    assert sizes.max() - sizes.min() <= 1
    assert len(sizes) > 1 or num_batches == 1
    assert len(sizes) <= fan_out**1.5 + 1


def inside(graph, cluster_ids):
    rows = np.repeat(cluster_ids, np.diff(graph.indptr))
    return graph.data[rows == cluster_ids[graph.indices]].sum()


@pytest.mark.parametrize("seed", range(5))
def test_exchange_keeps_sizes_and_never_loses_affinity(seed):
    graph = random_graph(120, 900, seed).astype(np.float32)
    before = np.random.default_rng(seed).permutation(np.repeat(np.arange(4), [20, 30, 30, 40]))
    after = exchange(graph, before, 4, num_passes=5)
    np.testing.assert_array_equal(np.bincount(after), [20, 30, 30, 40])
    assert inside(graph, after) > inside(graph, before)
    np.testing.assert_array_equal(exchange(graph, before, 4, num_passes=0), before)


@pytest.mark.parametrize("num_clusters", [2, 5, 8])
def test_threads_exchange_the_same_nodes(num_clusters):
    graph = random_graph(1200, 20_000, 0).astype(np.float32)
    before = np.random.default_rng(0).permutation(np.arange(1200) % num_clusters)
    alone = exchange(graph, before, num_clusters, num_passes=5)
    with ThreadPoolExecutor(4) as pool:
        together = exchange(graph, before, num_clusters, 5, pool)
    assert (alone != before).sum() > 100
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("count", [2, 3, 4, 7, 10])
def test_every_two_meet_once_and_nobody_twice_in_a_round(count):
    rounds = [pairs.tolist() for pairs in round_robin(count)]
    for pairs in rounds:
        assert len(set(chain(*pairs))) == 2 * len(pairs)
    met = sorted(tuple(sorted(pair)) for pair in chain(*rounds))
    assert met == list(combinations(range(count), 2))


def test_exchange_mends_a_planted_partition():
    U, V, cluster_ids = planted_pairs(num_clusters=4, per_cluster=25, dim=16)
    graph = graph_of(U, V, 25)
    mixed = cluster_ids.copy()
    wrong = np.concatenate([np.flatnonzero(cluster_ids == c)[:4] for c in range(4)])
    mixed[wrong] = np.roll(mixed[wrong], 4)
    np.testing.assert_array_equal(exchange(graph, mixed, 4, num_passes=5), cluster_ids)
