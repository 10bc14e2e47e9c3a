"""From neighbours to the affinity: a sparse symmetric matrix of the loss weights w(k, l).

The loss of a batch is bounded below by the sum of w over the pairs inside it (arXiv 2307.05906, section 5.3), so
batches that hold much affinity are hard:

    w(k, l) = sum over (i, j) in {(k, l), (l, k)} of
              log(1 + (B-1) exp((u_i.v_j - u_i.v_i) / t)) + log(1 + (B-1) exp((v_i.u_j - v_i.u_i) / t))

Two pairs are linked when either is among the other's neighbours in either direction; w itself is exact, from the
embeddings, not from the search. Memory: 8 bytes per stored entry, at most 4 K N entries.

B3 (arXiv 2505.11293) links less: it skips the p nearest, which are often right answers that nobody marked, and it wants
links to be mutual, l among the neighbours of k and k among those of l. It has one direction, the ranks of all targets
for each query; here a link is mutual when it is so in at least one direction, u -> v or v -> u.

Legend: n pairs, d dimensions, k neighbours.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numba
import numpy as np
import scipy.sparse as sp
from jaxtyping import Float32, Int32

from selection.knn import Neighbors
from selection.threads import in_ranges, thread_pool


def build_affinity(
    U: Float32[np.ndarray, "n d"],
    V: Float32[np.ndarray, "n d"],
    neighbors: Neighbors,
    batch_size: int,
    temperature: float,
) -> sp.csr_array:
    """The affinity of all pairs that are neighbours.

    Args:
        U: first embeddings, on the unit sphere.
        V: second embeddings.
        neighbors: those that were found, and which of them are linked.
        batch_size: B in w(k, l).
        temperature: t in w(k, l).

    Returns:
        Symmetric float32 [n, n] with sorted indices and an empty diagonal.
    """
    with thread_pool() as pool:
        graph = link(linked(neighbors, pool), pool)
        weigh(graph, U, V, batch_size, temperature, pool)
    return graph


def linked(neighbors: Neighbors, pool: ThreadPoolExecutor | None = None) -> Neighbors:
    """Without the nearest `first_rank`, and with -1 in place of those that are not mutual where they must be."""
    window = (ids[:, neighbors.first_rank :] for ids in (neighbors.v_of_u, neighbors.u_of_v))
    v_of_u, u_of_v = (_mutual(ids, pool) for ids in window) if neighbors.mutual else window
    return replace(neighbors, v_of_u=v_of_u, u_of_v=u_of_v)


def _mutual(
    ids: Int32[np.ndarray, "n k"], pool: ThreadPoolExecutor | None
) -> Int32[np.ndarray, "n k"]:
    """`ids`, with -1 where the neighbour does not have the row among its own."""
    kept = np.full(ids.shape, -1, np.int32)
    in_ranges(partial(_keep_mutual, ids, kept), len(ids), pool)
    return kept


@numba.njit(nogil=True, cache=True)
def _keep_mutual(ids, kept, start, stop):
    for row in range(start, stop):
        for place in range(ids.shape[1]):
            other = ids[row, place]
            if other >= 0 and (ids[other] == row).any():
                kept[row, place] = other


def link(neighbors: Neighbors, pool: ThreadPoolExecutor | None = None) -> sp.csr_array:
    """The symmetric pattern of neighbours, its entries uninitialised.

    Counted and filled by hand: scipy's way over coordinates takes 28 bytes per entry at its peak, this one 13, and it
    takes twice the time (benchmarks/NOTES.md).
    """
    both = neighbors.v_of_u, neighbors.u_of_v
    num_pairs = len(neighbors.v_of_u)
    indptr = np.zeros(num_pairs + 1, np.int64)
    _count_ends(*both, indptr[1:])
    np.cumsum(indptr, out=indptr)
    ends = np.empty(indptr[-1], np.int32)
    _fill_ends(*both, indptr[:-1].copy(), ends)
    counts = np.zeros(num_pairs + 1, np.int64)
    in_ranges(partial(_sort_rows, indptr, ends, counts[1:]), num_pairs, pool)
    kept = np.cumsum(counts)
    indices = np.empty(kept[-1], np.int32)
    in_ranges(partial(_copy_rows, indptr, ends, kept, indices), num_pairs, pool)
    if kept[-1] < np.iinfo(np.int32).max:
        kept = kept.astype(np.int32)  # scipy wants both of one kind where that is possible
    data = np.empty(len(indices), np.float32)
    return sp.csr_array((data, indices, kept), shape=(num_pairs, num_pairs))


@numba.njit(cache=True)
def _count_ends(v_of_u, u_of_v, counts):
    """Links of each node, repetitions included."""
    for ids in (v_of_u, u_of_v):
        for row in range(len(ids)):
            for other in ids[row]:
                if other >= 0:
                    counts[row] += 1
                    counts[other] += 1


@numba.njit(cache=True)
def _fill_ends(v_of_u, u_of_v, place, ends):
    """The other end of every link, row by row; `place` is where the next one of a row goes."""
    for ids in (v_of_u, u_of_v):
        for row in range(len(ids)):
            for other in ids[row]:
                if other >= 0:
                    ends[place[row]] = other
                    place[row] += 1
                    ends[place[other]] = row
                    place[other] += 1


@numba.njit(nogil=True, cache=True)
def _sort_rows(indptr, ends, counts, start, stop):
    """Sort each row; counts says how many different ones it has."""
    for row in range(start, stop):
        mine = ends[indptr[row] : indptr[row + 1]]
        mine.sort()
        for place in range(len(mine)):
            if place == 0 or mine[place] != mine[place - 1]:
                counts[row] += 1


@numba.njit(nogil=True, cache=True)
def _copy_rows(indptr, ends, kept, indices, start, stop):
    """Each row without repetitions."""
    for row in range(start, stop):
        place = kept[row]
        for entry in range(indptr[row], indptr[row + 1]):
            if entry == indptr[row] or ends[entry] != ends[entry - 1]:
                indices[place] = ends[entry]
                place += 1


def weigh(
    graph: sp.csr_array,
    U: Float32[np.ndarray, "n d"],
    V: Float32[np.ndarray, "n d"],
    batch_size: int,
    temperature: float,
    pool: ThreadPoolExecutor | None = None,
) -> None:
    """Overwrite the entries of `graph`, whose indices are sorted, with w(k, l)."""
    arrays, positives = (graph.indptr, graph.indices, graph.data), np.einsum("nd,nd->n", U, V)
    scales = np.float32(batch_size - 1), np.float32(1 / temperature)
    in_ranges(partial(_fill_upper, *arrays, U, V, positives, *scales), len(U), pool)
    in_ranges(partial(_mirror, *arrays), len(U), pool)


@numba.njit(fastmath=True, cache=True)
def similarities(U, V, k, l):  # noqa: E741
    """u_k.v_l and u_l.v_k."""
    kl = np.float32(0)
    lk = np.float32(0)
    for axis in range(U.shape[1]):
        kl += U[k, axis] * V[l, axis]
        lk += U[l, axis] * V[k, axis]
    return kl, lk


@numba.njit(cache=True)
def _softplus_excess(gap: float, num_negatives: float) -> float:
    """log(1 + (B-1) e^gap), without overflow."""
    shifted = gap + np.log(num_negatives)
    return max(shifted, np.float32(0)) + np.log1p(np.exp(-abs(shifted)))


@numba.njit(nogil=True, fastmath=True, cache=True)
def _fill_upper(indptr, indices, data, U, V, positives, num_negatives, inverse_t, start, stop):
    """w(k, l) for k < l; each entry is computed once, so that the matrix is symmetric to the last bit."""
    for k in range(start, stop):
        row = indices[indptr[k] : indptr[k + 1]]
        for entry in range(indptr[k] + np.searchsorted(row, k), indptr[k + 1]):
            l = indices[entry]  # noqa: E741
            kl, lk = similarities(U, V, k, l)
            total = np.float32(0)
            for positive in (positives[k], positives[l]):
                total += _softplus_excess((kl - positive) * inverse_t, num_negatives)
                total += _softplus_excess((lk - positive) * inverse_t, num_negatives)
            data[entry] = total


@numba.njit(nogil=True, cache=True)
def _mirror(indptr, indices, data, start, stop):
    """Copy the upper triangle to the lower one, rows start .. stop - 1 of it.

    Whoever goes down the rows of the upper triangle meets the entries of each column in order, so that every row of the
    lower one is filled from left to right.
    """
    place = indptr[start:stop].copy()  # where the next entry of each row goes
    for k in range(stop - 1):
        row = indices[indptr[k] : indptr[k + 1]]
        for entry in range(indptr[k] + np.searchsorted(row, max(k + 1, start)), indptr[k + 1]):
            l = indices[entry]  # noqa: E741
            if l >= stop:
                break
            data[place[l - start]] = data[entry]
            place[l - start] += 1
