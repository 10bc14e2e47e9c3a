"""Exchange of nodes between the parts of one split, after Kernighan and Lin (1970).

Two nodes of different parts change places when that keeps more affinity inside. For every pair of parts, the
nodes that would gain most by moving over are paired off, best with best, and each gain is looked up anew before
the exchange. Pairs of parts meet like a round robin: those of one round touch different columns of the links that are
kept, so that threads can do them side by side, and the result does not depend on who does.
Sizes never change. One pass is O(nnz + n log n) for a fixed number of parts; memory: n * c * 4 bytes.

Legend: n nodes, c parts.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial

import numba
import numpy as np
import scipy.sparse as sp
from jaxtyping import Int64

from selection.threads import in_ranges


def exchange(
    affinity: sp.csr_array,
    cluster_ids: Int64[np.ndarray, "n"],
    num_clusters: int,
    num_passes: int,
    pool: ThreadPoolExecutor | None = None,
) -> Int64[np.ndarray, "n"]:
    """Improve a partition by exchanges; the affinity inside parts never falls.

    Args:
        affinity: symmetric [n, n].
        cluster_ids: the part of each node.
        num_clusters: c.
        num_passes: most passes; a pass without an exchange is the last one.
        pool: threads that exchange; None takes this one.

    Returns:
        The part of each node; every part keeps its size.
    """
    cluster_ids = cluster_ids.copy()
    if num_passes == 0:
        return cluster_ids
    graph = affinity.indptr, affinity.indices, affinity.data
    links = np.zeros((len(cluster_ids), num_clusters), np.float32)
    in_ranges(partial(_sum_links, *graph, cluster_ids, links), len(cluster_ids), pool)
    members = np.argsort(cluster_ids, kind="stable")
    starts = np.searchsorted(cluster_ids[members], np.arange(num_clusters + 1))

    meet = partial(_exchange_pairs, *graph, cluster_ids, members, starts, links)
    rounds = round_robin(num_clusters)
    for _ in range(num_passes):
        if pool is None:
            num_exchanges = meet(np.concatenate(rounds))
        else:
            num_exchanges = sum(sum(pool.map(meet, pairs[:, None])) for pairs in rounds)
        if not num_exchanges:
            break
    return cluster_ids


@cache
def round_robin(count: int) -> tuple[Int64[np.ndarray, "pairs 2"], ...]:
    """Rounds in which every two of 0 .. count - 1 meet once, and nobody twice in one round."""
    last = count + count % 2 - 1  # of an odd number, one has nobody to meet
    way = np.arange(1, last // 2 + 1)
    rounds = []
    for turn in range(last):
        pairs = np.stack([(turn + way) % last, (turn - way) % last], axis=1)
        pairs = np.concatenate([[[turn, last]], pairs])
        rounds.append(pairs[pairs.max(axis=1) < count])
    return tuple(rounds)


@numba.njit(nogil=True, cache=True)
def _sum_links(indptr, indices, data, cluster_ids, links, start, stop):
    """links[i, p] = affinity of node i to part p."""
    for node in range(start, stop):
        for entry in range(indptr[node], indptr[node + 1]):
            links[node, cluster_ids[indices[entry]]] += data[entry]


@numba.njit(nogil=True, cache=True)
def _exchange_pairs(indptr, indices, data, cluster_ids, members, starts, links, pairs):
    """Let the parts of each pair meet, one pair after the other; returns the number of exchanges."""
    num_exchanges = 0
    for a, b in pairs:
        in_a, in_b = members[starts[a] : starts[a + 1]], members[starts[b] : starts[b + 1]]
        from_a, from_b = _candidates(in_a, in_b, links, a, b)
        for place in range(min(len(from_a), len(from_b))):
            i, j = in_a[from_a[place]], in_b[from_b[place]]
            gain = links[i, b] - links[i, a] + links[j, a] - links[j, b]
            if gain <= 0:
                break
            if gain - 2 * _weight(indptr, indices, data, i, j) > 1e-6:
                _move(indptr, indices, data, cluster_ids, links, i, a, b)
                _move(indptr, indices, data, cluster_ids, links, j, b, a)
                in_a[from_a[place]], in_b[from_b[place]] = j, i
                num_exchanges += 1
    return num_exchanges


@numba.njit(nogil=True, cache=True)
def _candidates(in_a, in_b, links, a, b):
    """Places of those who may take part in an exchange that gains, best first, on both sides."""
    gains_a, gains_b = _gains(in_a, links, a, b), _gains(in_b, links, b, a)
    worth_a = np.flatnonzero(gains_a > -gains_b.max())  # few; the others are not worth sorting
    worth_b = np.flatnonzero(gains_b > -gains_a.max())
    from_a = worth_a[np.argsort(-gains_a[worth_a], kind="mergesort")]
    from_b = worth_b[np.argsort(-gains_b[worth_b], kind="mergesort")]
    return from_a, from_b


@numba.njit(nogil=True, cache=True)
def _gains(nodes, links, home, away):
    """What each node gains by moving from `home` to `away`."""
    gains = np.empty(len(nodes), np.float32)
    for place in range(len(nodes)):
        gains[place] = links[nodes[place], away] - links[nodes[place], home]
    return gains


@numba.njit(nogil=True, cache=True)
def _weight(indptr, indices, data, i, j):
    """Affinity of i and j; rows are sorted."""
    place = indptr[i] + np.searchsorted(indices[indptr[i] : indptr[i + 1]], j)
    return data[place] if place < indptr[i + 1] and indices[place] == j else np.float32(0)


@numba.njit(nogil=True, cache=True)
def _move(indptr, indices, data, cluster_ids, links, node, home, away):
    """Move `node` and tell its neighbours."""
    cluster_ids[node] = away
    for entry in range(indptr[node], indptr[node + 1]):
        links[indices[entry], home] -= data[entry]
        links[indices[entry], away] += data[entry]
