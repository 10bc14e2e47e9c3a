"""Exchange of nodes between the parts of one split, after Kernighan and Lin (1970).

Two nodes of different parts change places when that keeps more affinity inside. For every pair of parts, the
nodes that would gain most by moving over are paired off, best with best, and each gain is looked up anew before
the exchange.
Sizes never change. One pass is O(nnz + n log n) for a fixed number of parts; memory: n * c * 4 bytes.

Legend: n nodes, c parts.
"""

import numba
import numpy as np
import scipy.sparse as sp
from jaxtyping import Int64


def exchange(
    affinity: sp.csr_array,
    cluster_ids: Int64[np.ndarray, "n"],
    num_clusters: int,
    num_passes: int,
) -> Int64[np.ndarray, "n"]:
    """Improve a partition by exchanges; the affinity inside parts never falls.

    Args:
        affinity: symmetric [n, n].
        cluster_ids: the part of each node.
        num_clusters: c.
        num_passes: most passes; a pass without an exchange is the last one.

    Returns:
        The part of each node; every part keeps its size.
    """
    cluster_ids = cluster_ids.copy()
    if num_passes == 0:
        return cluster_ids
    indptr, indices, data = affinity.indptr, affinity.indices, affinity.data
    links = np.zeros((len(cluster_ids), num_clusters), np.float32)
    _sum_links(indptr, indices, data, cluster_ids, links)
    for _ in range(num_passes):
        if not _exchange_pass(indptr, indices, data, cluster_ids, links):
            break
    return cluster_ids


@numba.njit(parallel=True, cache=True)
def _sum_links(indptr, indices, data, cluster_ids, links):
    """links[i, p] = affinity of node i to part p."""
    for node in numba.prange(len(cluster_ids)):
        for entry in range(indptr[node], indptr[node + 1]):
            links[node, cluster_ids[indices[entry]]] += data[entry]


@numba.njit(cache=True)
def _exchange_pass(indptr, indices, data, cluster_ids, links):
    """Visit every pair of parts once; returns the number of exchanges."""
    num_clusters = links.shape[1]
    num_exchanges = 0
    for a in range(num_clusters):
        for b in range(a + 1, num_clusters):
            from_a = _by_gain(np.flatnonzero(cluster_ids == a), links, a, b)
            from_b = _by_gain(np.flatnonzero(cluster_ids == b), links, b, a)
            for place in range(min(len(from_a), len(from_b))):
                i, j = from_a[place], from_b[place]
                gain = links[i, b] - links[i, a] + links[j, a] - links[j, b]
                if gain <= 0:
                    break
                if gain - 2 * _weight(indptr, indices, data, i, j) > 1e-6:
                    _move(indptr, indices, data, cluster_ids, links, i, a, b)
                    _move(indptr, indices, data, cluster_ids, links, j, b, a)
                    num_exchanges += 1
    return num_exchanges


@numba.njit(cache=True)
def _by_gain(nodes, links, home, away):
    """`nodes` in order of what they gain by moving from `home` to `away`, best first."""
    gains = np.empty(len(nodes), np.float32)
    for place in range(len(nodes)):
        gains[place] = links[nodes[place], home] - links[nodes[place], away]
    return nodes[np.argsort(gains, kind="mergesort")]


@numba.njit(cache=True)
def _weight(indptr, indices, data, i, j):
    """Affinity of i and j; rows are sorted."""
    place = indptr[i] + np.searchsorted(indices[indptr[i] : indptr[i + 1]], j)
    return data[place] if place < indptr[i + 1] and indices[place] == j else np.float32(0)


@numba.njit(cache=True)
def _move(indptr, indices, data, cluster_ids, links, node, home, away):
    """Move `node` and tell its neighbours."""
    cluster_ids[node] = away
    for entry in range(indptr[node], indptr[node + 1]):
        links[indices[entry], home] -= data[entry]
        links[indices[entry], away] += data[entry]
