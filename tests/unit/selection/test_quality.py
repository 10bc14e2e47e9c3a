import json

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse.csgraph import connected_components

from selection.config import GraphConfig, HardnessConfig, SelectionConfig
from selection.quality import (
    batch_losses,
    captured_affinity,
    count_components,
    effective_rank,
    measure_affinity,
    measure_embeddings,
    measure_losses,
    random_batches,
)
from selection.select import choose
from tests.conftest import planted_pairs, unit_rows
from tests.unit.selection.test_spectral import random_graph

GRAPH_SIGNALS = {
    "knn_index", "knn_recall", "knn_recall_queries", "hub_share", "captured_affinity",
    "eigengap", "eigenvalues", "random_captured_affinity", "num_links", "num_isolated",
    "isolated_share", "num_components",
}  # fmt: skip


def slow_loss(U, V, t):
    """InfoNCE of one batch, element by element, in float64."""
    U, V = U.astype(np.float64), V.astype(np.float64)
    total = 0.0
    for a, b in ((U, V), (V, U)):
        for i in range(len(a)):
            total -= a[i] @ b[i] / t - np.log(sum(np.exp(a[i] @ b[j] / t) for j in range(len(b))))
    return total / (2 * len(U))


def test_batch_losses_equal_the_formula(random_pairs):
    U, V = random_pairs
    batches = np.arange(40).reshape(4, 10)
    expected = [slow_loss(U[batch], V[batch], 0.07) for batch in batches]
    np.testing.assert_allclose(batch_losses(U, V, batches, 0.07), expected, rtol=1e-5)


@pytest.mark.parametrize("num_pairs", [4, 8, 16])
def test_simplex_has_the_published_loss(num_pairs):
    """L* = 2 log(1 + (N-1) e^(-N/(N-1))) for N <= d+1 (arXiv 2307.05906, theorem 1); ours is the mean of directions."""
    simplex = np.eye(num_pairs) - 1 / num_pairs
    simplex /= np.linalg.norm(simplex, axis=1, keepdims=True)
    simplex = simplex.astype(np.float32)
    loss = batch_losses(simplex, simplex, np.arange(num_pairs)[None], 1.0)[0]
    assert 2 * loss == pytest.approx({4: 1.165315, 8: 2.346416, 16: 3.636902}[num_pairs], abs=2e-6)


def test_losses_of_few_batches_are_those_of_all(random_pairs):
    U, V = random_pairs
    batches = np.random.default_rng(0).permutation(400).reshape(40, 10)
    losses = batch_losses(U, V, batches, 0.5)
    found = measure_losses(U, V, batches, 0.5, np.random.default_rng(1))
    assert found["num_measured_batches"] == 40
    assert found["batch_loss"] == pytest.approx(losses.mean(), rel=1e-6)
    assert found["batch_loss_p5"] == pytest.approx(np.quantile(losses, 0.05), rel=1e-6)
    assert found["batch_loss_p95"] == pytest.approx(np.quantile(losses, 0.95), rel=1e-6)
    assert found["random_batch_loss"] == pytest.approx(losses.mean(), rel=0.1)  # random as well


@pytest.mark.parametrize(("batch_size", "measured"), [(2, 512), (512, 128)])
def test_large_batches_are_measured_on_fewer(batch_size, measured):
    """The similarities that are looked at stay below a limit."""
    U = np.ones((batch_size * 600, 1), np.float32)
    batches = np.arange(len(U)).reshape(-1, batch_size)
    found = measure_losses(U, U, batches, 0.1, np.random.default_rng(0))
    assert found["num_measured_batches"] == measured
    assert found["batch_loss"] == pytest.approx(np.log(batch_size), rel=1e-5)  # all alike


def test_captured_affinity_counts_inside_only():
    affinity = sp.csr_array(
        np.array([[0, 1, 2, 0], [1, 0, 0, 4], [2, 0, 0, 3], [0, 4, 3, 0]], float)
    )
    assert captured_affinity(affinity, np.array([[0, 1], [2, 3]])) == pytest.approx((1 + 3) / 10)
    assert captured_affinity(affinity, np.array([[1, 3]])) == pytest.approx(4 / 10)
    assert captured_affinity(sp.csr_array((4, 4)), np.array([[1, 3]])) == 0


def test_random_groups_capture_the_expected_share(random_pairs):
    rng = np.random.default_rng(0)
    dense = np.triu(rng.random((60, 60)) * (rng.random((60, 60)) < 0.3), 1)
    affinity = sp.csr_array(dense + dense.T)
    found = [measure_affinity(affinity, random_batches(60, 12, 4, rng)) for _ in range(200)]
    captured = np.mean([signals["captured_affinity"] for signals in found])
    assert found[0]["random_captured_affinity"] == pytest.approx(4 * 12 * 11 / (60 * 59))
    assert captured == pytest.approx(found[0]["random_captured_affinity"], rel=0.03)


@given(st.integers(1, 40), st.integers(0, 60), st.integers(0, 99))
def test_components_are_those_that_scipy_finds(num_nodes, num_links, seed):
    graph = random_graph(num_nodes, num_links, seed)
    expected, _ = connected_components(graph, directed=False)
    assert count_components(graph.indptr, graph.indices) == expected


def test_isolated_nodes_and_components():
    """A triangle, an edge, a node without a link, and one whose link weighs nothing."""
    links = [(0, 1, 2.0), (1, 2, 1.0), (0, 2, 1.0), (3, 4, 5.0), (6, 4, 0.0)]
    dense = sp.lil_array((7, 7))
    for first, second, weight in links:
        dense[first, second] = dense[second, first] = weight
    found = measure_affinity(sp.csr_array(dense), np.arange(6).reshape(3, 2))
    assert found["num_links"] == 4
    assert (found["num_isolated"], found["isolated_share"]) == (2, 2 / 7)
    assert found["num_components"] == 4


def test_random_batches_do_not_repeat():
    batches = random_batches(10, 3, 3, np.random.default_rng(0))
    assert len(np.unique(batches)) == 9
    assert random_batches(10, 3, 8, np.random.default_rng(0)).shape == (3, 3)


def test_effective_rank_of_known_spectra():
    assert effective_rank(np.tile(unit_rows(np.ones((1, 5))), (30, 1))) == pytest.approx(1)
    assert effective_rank(np.tile(np.eye(6, dtype=np.float32), (4, 1))) == pytest.approx(6)
    two = np.repeat(np.eye(8, dtype=np.float32)[:2], [3, 1], axis=0)  # shares 3/4 and 1/4
    assert effective_rank(two) == pytest.approx((4 / 3) ** 0.75 * 4**0.25)


@pytest.mark.parametrize("shape", [(200, 12), (9, 40)])
def test_effective_rank_equals_that_of_singular_values(shape):
    rows = unit_rows(np.random.default_rng(0).standard_normal(shape) + 0.5)
    shares = np.linalg.svd(rows.astype(np.float64), compute_uv=False) ** 2 / len(rows)
    assert effective_rank(rows) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-6)


def test_effective_rank_of_what_is_no_embedding():
    rows = np.eye(3, dtype=np.float32)
    broken = np.concatenate([rows, np.full((2, 3), np.nan, np.float32)])
    assert effective_rank(broken) == pytest.approx(3)
    assert effective_rank(np.full((2, 3), np.inf, np.float32)) == 0
    assert effective_rank(np.zeros((2, 3), np.float32)) == 0


def test_off_sphere_share_counts_long_zero_and_nan_rows(random_pairs):
    U, V = random_pairs
    assert measure_embeddings(U, V, np.random.default_rng(0))["off_sphere_share"] == 0
    wrong = V.copy()
    wrong[:3] *= [[1.02], [0], [np.nan]]
    half = wrong.astype(np.float16).astype(np.float32)  # rounding alone is no mistake
    found = measure_embeddings(U, half, np.random.default_rng(0))
    assert found["off_sphere_share"] == pytest.approx(3 / 800)


@pytest.fixture(scope="module")
def clustered():
    U, V, _ = planted_pairs(num_clusters=20, per_cluster=16, dim=16)
    return U, V


def test_signals_reach_the_manifest_and_repeat(clustered):
    first, second = (choose(clustered, 16, 0.1, SelectionConfig()).fields for _ in range(2))
    assert first.keys() >= GRAPH_SIGNALS
    assert (first["knn_index"], first["knn_recall_queries"]) == ("flat", 0)
    assert "kept_mates" not in first
    assert json.loads(json.dumps(first)) == first
    del first["seconds"], second["seconds"]
    assert first == second


def test_an_approximate_search_says_on_how_many_queries(clustered):
    config = SelectionConfig(graph=GraphConfig(index="ivf", min_recall=0.5))
    fields = choose(clustered, 16, 0.1, config).fields
    assert (fields["knn_index"], fields["knn_recall_queries"]) == ("ivf", 320)


@pytest.mark.parametrize(
    "config",
    [SelectionConfig(strategy="random"), SelectionConfig(hardness=HardnessConfig(random_share=1))],
)
def test_without_a_graph_there_are_no_signals_of_one(clustered, config):
    fields = choose(clustered, 16, 0.1, config).fields
    assert not fields.keys() & GRAPH_SIGNALS
    assert fields["batch_loss"] == pytest.approx(fields["random_batch_loss"], rel=0.2)


def test_the_round_before_is_compared_and_changes_nothing(clustered):
    first = choose(clustered, 16, 0.1, SelectionConfig(), (0, 1))
    alone = choose(clustered, 16, 0.1, SelectionConfig(), (0, 2))
    second = choose(clustered, 16, 0.1, SelectionConfig(), (0, 2), previous_batches=first.batches)
    np.testing.assert_array_equal(alone.batches, second.batches)
    assert second.fields["kept_mates"] > 10 * second.fields["random_kept_mates"]
    assert 0 <= second.fields["changed_pairs"] < 0.5
