import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from selection.balanced import balanced_clusters, fill_exactly


@given(st.lists(st.integers(0, 6), min_size=1, max_size=8).filter(any), st.integers(0, 5))
def test_fill_exactly_gives_each_column_its_number(capacities, seed):
    capacities = np.array(capacities)
    scores = np.random.default_rng(seed).standard_normal((capacities.sum(), len(capacities)))
    cluster_ids = fill_exactly(scores.astype(np.float32), capacities)
    np.testing.assert_array_equal(np.bincount(cluster_ids, minlength=len(capacities)), capacities)


def test_fill_exactly_follows_the_scores_where_they_fit():
    scores = np.eye(3, dtype=np.float32)[[2, 0, 1, 1, 0, 2]]
    np.testing.assert_array_equal(fill_exactly(scores, np.array([2, 2, 2])), [2, 0, 1, 1, 0, 2])


def test_balanced_clusters_of_equal_points():
    points = np.ones((12, 3), np.float32) / np.sqrt(3).astype(np.float32)
    cluster_ids = balanced_clusters(points, np.array([4, 4, 4]), np.random.default_rng(0), 2)
    np.testing.assert_array_equal(np.bincount(cluster_ids), [4, 4, 4])


def fill_slowly(scores, capacities):
    """One row after the other, by the same rule."""
    room, cluster_ids = list(capacities), [-1] * len(scores)
    while -1 in cluster_ids:
        requests = []
        for row, values in enumerate(scores):
            if cluster_ids[row] == -1:
                ranked = sorted(np.flatnonzero(room), key=lambda column: -values[column])
                regret = values[ranked[0]] - values[ranked[1]] if len(ranked) > 1 else np.inf
                requests.append((-regret, row, ranked[0]))
        for _, row, column in sorted(requests):
            if room[column]:
                cluster_ids[row] = column
                room[column] -= 1
    return cluster_ids


@given(st.lists(st.integers(0, 6), min_size=1, max_size=6).filter(any), st.integers(0, 99))
def test_fill_exactly_does_what_a_slow_reference_does(capacities, seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(-3, 4, (sum(capacities), len(capacities))).astype(np.float32)
    np.testing.assert_array_equal(
        fill_exactly(scores, np.array(capacities)), fill_slowly(scores, capacities)
    )
