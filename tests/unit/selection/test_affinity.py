import itertools

import numpy as np
import pytest
import scipy.sparse as sp

from selection.affinity import build_affinity, linked
from selection.config import GraphConfig
from selection.knn import Neighbors, find_neighbors

BATCH_SIZE, TEMPERATURE = 32, 0.1


def slow_weight(U, V, k, l):  # noqa: E741
    """w(k, l) as the paper writes it, in float64."""
    U, V = U.astype(np.float64), V.astype(np.float64)
    total = 0.0
    for i, j in ((k, l), (l, k)):
        for gap in (U[i] @ V[j] - U[i] @ V[i], V[i] @ U[j] - V[i] @ U[i]):
            total += np.log1p((BATCH_SIZE - 1) * np.exp(gap / TEMPERATURE))
    return total


@pytest.fixture(scope="module")
def graph(random_pairs):
    U, V = random_pairs
    neighbors = find_neighbors(U, V, GraphConfig(num_neighbors=5))
    return neighbors, build_affinity(U, V, neighbors, BATCH_SIZE, TEMPERATURE)


def test_links_are_the_union_of_both_directions(graph):
    neighbors, affinity = graph
    expected = np.zeros(affinity.shape, bool)
    for ids in (neighbors.v_of_u, neighbors.u_of_v):
        expected[np.arange(len(ids))[:, None], ids] = True
    np.testing.assert_array_equal(affinity.toarray() != 0, expected | expected.T)


@pytest.mark.parametrize("mutual", [False, True])
@pytest.mark.parametrize("first_rank", [0, 3])
def test_links_are_the_rank_window_of_b3(random_pairs, first_rank, mutual):
    """Ranks p .. p + K of each direction, and of those, when they must be mutual, the ones that go both ways."""
    U, V = (side[:60].astype(np.float64) for side in random_pairs)
    config = GraphConfig(num_neighbors=5, first_rank=first_rank, mutual=mutual)
    neighbors = find_neighbors(*(side[:60] for side in random_pairs), config)
    expected = np.zeros((60, 60), bool)
    for queries, base in ((U, V), (V, U)):
        similarities = queries @ base.T
        np.fill_diagonal(similarities, -np.inf)
        ranks = np.argsort(np.argsort(-similarities, axis=1), axis=1)
        arcs = (ranks >= first_rank) & (ranks < first_rank + 5)
        expected |= arcs & arcs.T if mutual else arcs | arcs.T
    found = build_affinity(
        *(side[:60] for side in random_pairs), neighbors, BATCH_SIZE, TEMPERATURE
    )
    np.testing.assert_array_equal(found.toarray() != 0, expected)
    assert neighbors.v_of_u.shape == (60, 5 + first_rank)  # who looks for false negatives sees all


def test_a_window_beyond_all_ranks_is_an_empty_graph(random_pairs):
    pairs = [side[:20] for side in random_pairs]
    neighbors = find_neighbors(*pairs, GraphConfig(num_neighbors=5, first_rank=19, mutual=True))
    assert build_affinity(*pairs, neighbors, BATCH_SIZE, TEMPERATURE).nnz == 0


def test_neighbors_that_were_not_found_are_not_mutual():
    unknown = np.array([[-1, 1], [-1, 0], [-1, 0]], np.int32)
    nothing = np.full((3, 2), -1, np.int32)
    mutual = linked(Neighbors(unknown, nothing, 1.0, mutual=True))
    assert mutual.v_of_u.tolist() == [[-1, 1], [-1, 0], [-1, -1]]


def test_weights_equal_the_formula(graph, random_pairs):
    _, affinity = graph
    entries = sp.coo_array(affinity)
    for k, l, weight in itertools.islice(  # noqa: E741
        zip(*entries.coords, entries.data, strict=True), 0, None, 7
    ):
        assert weight == pytest.approx(slow_weight(*random_pairs, k, l), rel=1e-5)


def test_symmetric_to_the_last_bit(graph):
    _, affinity = graph
    assert (affinity != affinity.T).nnz == 0


def test_extreme_gaps_stay_finite():
    U = np.array([[1, 0], [-1, 0], [0, 1]], np.float32)
    V = -U
    neighbors = find_neighbors(U, V, GraphConfig(num_neighbors=2))
    affinity = build_affinity(U, V, neighbors, 1024, 0.005)
    assert np.isfinite(affinity.data).all()
    assert affinity.data.max() == pytest.approx(4 * (2 / 0.005 + np.log(1023)), rel=1e-5)


def test_batch_loss_is_bounded_below_by_its_affinity(random_pairs):
    """The inequality that selection rests on: 2 L >= sum of w inside / (B (B-1)), L the mean of directions."""
    from selection.quality import batch_losses

    U, V = random_pairs[0][:BATCH_SIZE], random_pairs[1][:BATCH_SIZE]
    neighbors = find_neighbors(U, V, GraphConfig(num_neighbors=BATCH_SIZE - 1))
    inside = build_affinity(U, V, neighbors, BATCH_SIZE, TEMPERATURE).sum() / 2
    loss = batch_losses(U, V, np.arange(BATCH_SIZE)[None], TEMPERATURE)[0]
    assert 2 * loss >= inside / (BATCH_SIZE * (BATCH_SIZE - 1))
