"""Clusters of points that have exactly the sizes they should.

Legend: n points, c clusters, k dimensions.
"""

import numba
import numpy as np
import scipy.sparse as sp
from jaxtyping import Float32, Int64

_KMEANS_STEPS = 6


def balanced_clusters(
    points: Float32[np.ndarray, "n k"],
    capacities: Int64[np.ndarray, "c"],
    rng: np.random.Generator,
    num_balanced_steps: int,
) -> Int64[np.ndarray, "n"]:
    """Spherical k-means whose clusters have exactly the given sizes.

    Args:
        points: unit rows.
        capacities: size of each cluster; their sum is n.
        rng: chooses the first centroids.
        num_balanced_steps: further steps in which the clusters get these sizes before their centroids move; they cost
            most of the time, and an exchange afterwards makes up for some of them.
    """
    centroids = _spread_centroids(points, len(capacities), rng)
    for step in range(_KMEANS_STEPS + num_balanced_steps):
        scores = points @ centroids.T
        is_balanced = step >= _KMEANS_STEPS
        cluster_ids = fill_exactly(scores, capacities) if is_balanced else scores.argmax(axis=1)
        one_hot = sp.csr_array(
            (np.ones(len(points), np.float32), (cluster_ids, np.arange(len(points)))),
            shape=(len(capacities), len(points)),
        )
        sums = one_hot @ points
        empty = ~sums.any(axis=1)
        sums[empty] = points[rng.integers(len(points), size=int(empty.sum()))]
        centroids = normalize_rows(sums)
    return fill_exactly(points @ centroids.T, capacities)


def _spread_centroids(
    points: np.ndarray, num_clusters: int, rng: np.random.Generator
) -> Float32[np.ndarray, "c k"]:
    """First centroids that point in different directions: each the row least like those chosen before."""
    centroids = np.empty((num_clusters, points.shape[1]), np.float32)
    centroids[0] = points[rng.integers(len(points))]
    likeness = np.full(len(points), -1, np.float32)
    for cluster in range(1, num_clusters):
        likeness = np.maximum(likeness, points @ centroids[cluster - 1])
        weights = np.maximum(1 - likeness.astype(np.float64), 0)
        total = weights.sum()
        choice = rng.choice(len(points), p=weights / total) if total else rng.integers(len(points))
        centroids[cluster] = points[choice]
    return centroids


def fill_exactly(
    scores: Float32[np.ndarray, "n c"],
    capacities: Int64[np.ndarray, "c"],
) -> Int64[np.ndarray, "n"]:
    """Give every row one column, each column exactly `capacities` rows, high scores first.

    In each round every free row asks for its best open column, and a column with more requests than room keeps
    those that would lose most elsewhere. At least one column closes per round, so there are at most c rounds.
    """
    num_rows = len(scores)
    cluster_ids = np.full(num_rows, -1, np.int64)
    room = capacities.copy()
    free = np.arange(num_rows)
    while len(free):
        choice, regret = _best_open(scores, free, room)
        order = np.argsort(-regret, kind="stable")
        _take_places(free[order], choice[order], room, cluster_ids)
        free = np.flatnonzero(cluster_ids < 0)
    return cluster_ids


@numba.njit(nogil=True, cache=True)
def _best_open(scores, free, room):
    """The best column with room for each free row, and by how much it is better than the next one."""
    choice, regret = np.empty(len(free), np.int64), np.empty(len(free), np.float32)
    is_open = np.flatnonzero(room)
    for place in range(len(free)):
        row, best, second = scores[free[place]], is_open[0], np.float32(-np.inf)
        for column in is_open[1:]:
            if row[column] > row[best]:
                best, second = column, row[best]
            else:
                second = max(second, row[column])
        choice[place], regret[place] = best, row[best] - second
    return choice, regret


@numba.njit(nogil=True, cache=True)
def _take_places(rows, choice, room, cluster_ids):
    """One after the other, as long as there is room."""
    for place in range(len(rows)):
        if room[choice[place]] > 0:
            cluster_ids[rows[place]] = choice[place]
            room[choice[place]] -= 1


def normalize_rows(vectors: Float32[np.ndarray, "n k"]) -> Float32[np.ndarray, "n k"]:
    """Rows scaled to length 1; zero rows stay."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)


def by_cluster(
    nodes: Int64[np.ndarray, "n"], cluster_ids: Int64[np.ndarray, "n"]
) -> list[Int64[np.ndarray, "m"]]:
    """The nodes of each cluster, in their order."""
    order = np.argsort(cluster_ids, kind="stable")
    return np.split(nodes[order], np.cumsum(np.bincount(cluster_ids))[:-1])
