import numpy as np
import pytest

from selection.cells import Cells, divide, nearness_for, visits
from selection.threads import thread_pool
from tests.conftest import planted_pairs


@pytest.fixture(scope="module")
def pairs():
    U, V, _ = planted_pairs(num_clusters=30, per_cluster=20, dim=12)
    return U, V


@pytest.fixture(scope="module")
def cells(pairs):
    with thread_pool() as pool:
        return [divide(side, 40, np.random.default_rng(0), pool) for side in pairs]


def test_every_point_is_with_its_most_similar_centroid(pairs, cells):
    similarities = pairs[0] @ cells[0].centroids.T
    np.testing.assert_array_equal(cells[0].owner, similarities.argmax(axis=1))
    np.testing.assert_array_equal(np.sort(cells[0].members), np.arange(600))
    for cell in range(40):
        inside = cells[0].members[cells[0].starts[cell] : cells[0].starts[cell + 1]]
        assert set(cells[0].owner[inside]) <= {cell}


def test_cells_are_tighter_than_chance(pairs, cells):
    own = pairs[0] @ pairs[0].T
    together = cells[0].owner[:, None] == cells[0].owner
    assert own[together].mean() > 0.5 > 5 * own.mean()


def test_queries_look_into_cells_that_are_near(pairs, cells):
    visitors, starts = visits(pairs[0][:50], cells[1], nearness=0.6)
    similarities = pairs[0][:50] @ cells[1].centroids.T
    for cell in range(40):
        expected = np.flatnonzero(similarities[:, cell] >= 0.6 * similarities.max(axis=1))
        np.testing.assert_array_equal(visitors[starts[cell] : starts[cell + 1]], expected)


@pytest.mark.parametrize("min_recall", [0.5, 0.9, 1.0])
def test_nearness_is_the_largest_that_is_enough(pairs, cells, min_recall):
    """Counted by hand: who looks into whose cell."""
    (U, V), (in_u, in_v) = pairs, cells
    sample = np.arange(0, 600, 5)
    similarities = U @ V.T
    np.fill_diagonal(similarities, -np.inf)
    truth = np.argsort(-similarities[sample], axis=1)[:, :24].astype(np.int32)
    ahead, back = U @ in_v.centroids.T, V @ in_u.centroids.T

    def share_met(nearness):
        u_looks = ahead >= nearness * ahead.max(axis=1, keepdims=True)
        v_looks = back >= nearness * back.max(axis=1, keepdims=True)
        met = [
            u_looks[k, in_v.owner[others]] | v_looks[others, in_u.owner[k]]
            for k, others in zip(sample, truth, strict=True)
        ]
        return np.mean(met)

    nearness = nearness_for(min_recall, sample, truth, U, V, in_u, in_v)
    assert share_met(nearness) >= min_recall
    assert share_met(nearness + 1e-3) < min(min_recall + 0.005, 1)


def test_the_best_cell_is_near_even_where_rounding_makes_it_negative():
    """Equal centroids minus their mean in float32 are noise."""
    centroids = np.full((5, 3), -1e-8, np.float32)
    cells = Cells(centroids, *(np.zeros(0, np.int32),) * 2, np.zeros(6, np.int64))
    visitors, starts = visits(np.float32([[1, 0, 0], [0, 0.6, 0.8]]), cells, 0.9)
    assert sorted(visitors.tolist()) == [0] * 5 + [1] * 5
    assert starts.tolist() == [0, 2, 4, 6, 8, 10]


def test_equal_points_are_all_near():
    points = np.tile(np.float32([1, 0, 0]), (30, 1))
    with thread_pool() as pool:
        cells = divide(points, 5, np.random.default_rng(0), pool)
    truth = np.ones((1, 1), np.int32)
    nearness = nearness_for(0.9, np.zeros(1, int), truth, points, points, cells, cells)
    visitors, _ = visits(points[:4], cells, nearness)
    assert len(visitors) == 4 * 5
