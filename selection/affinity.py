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

from dataclasses import replace

import numba
import numpy as np
import scipy.sparse as sp
from jaxtyping import Float32

from selection.knn import Neighbors


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
    graph = link(linked(neighbors))
    weigh(graph, U, V, batch_size, temperature)
    return graph


def linked(neighbors: Neighbors) -> Neighbors:
    """Without the nearest `first_rank`, and with -1 in place of those that are not mutual where they must be."""
    window = (ids[:, neighbors.first_rank :] for ids in (neighbors.v_of_u, neighbors.u_of_v))
    v_of_u, u_of_v = map(_mutual, window) if neighbors.mutual else window
    return replace(neighbors, v_of_u=v_of_u, u_of_v=u_of_v)


@numba.njit(parallel=True, cache=True)
def _mutual(ids):
    """`ids` [n, k], with -1 where the neighbour does not have the row among its own."""
    kept = np.full(ids.shape, -1, np.int32)
    for row in numba.prange(len(ids)):
        for place in range(ids.shape[1]):
            other = ids[row, place]
            if other >= 0 and (ids[other] == row).any():
                kept[row, place] = other
    return kept


def link(neighbors: Neighbors) -> sp.csr_array:
    """The symmetric pattern of neighbours, its entries uninitialised."""
    num_pairs, k = neighbors.v_of_u.shape
    links = np.concatenate([neighbors.v_of_u, neighbors.u_of_v], axis=1).ravel()
    rows = np.repeat(np.arange(num_pairs, dtype=np.int32), 2 * k)
    known = links >= 0
    rows, links = rows[known], links[known]
    ones = np.ones(2 * len(rows), np.float32)
    both_ways = (np.concatenate([rows, links]), np.concatenate([links, rows]))
    graph = sp.coo_array((ones, both_ways), shape=(num_pairs, num_pairs)).tocsr()
    graph.sum_duplicates()
    return graph


def weigh(
    graph: sp.csr_array,
    U: Float32[np.ndarray, "n d"],
    V: Float32[np.ndarray, "n d"],
    batch_size: int,
    temperature: float,
) -> None:
    """Overwrite the entries of `graph` with w(k, l)."""
    positives = np.einsum("nd,nd->n", U, V)
    _fill_upper(
        graph.indptr, graph.indices, graph.data, U, V, positives,
        np.float32(batch_size - 1), np.float32(1 / temperature),
    )  # fmt: skip
    _mirror(graph.indptr, graph.indices, graph.data)


@numba.njit(cache=True)
def _softplus_excess(gap: float, num_negatives: float) -> float:
    """log(1 + (B-1) e^gap), without overflow."""
    shifted = gap + np.log(num_negatives)
    return max(shifted, np.float32(0)) + np.log1p(np.exp(-abs(shifted)))


@numba.njit(parallel=True, fastmath=True, cache=True)
def _fill_upper(indptr, indices, data, U, V, positives, num_negatives, inverse_t):
    """w(k, l) for k < l; each entry is computed once, so that the matrix is symmetric to the last bit."""
    dim = U.shape[1]
    for k in numba.prange(len(indptr) - 1):
        for entry in range(indptr[k], indptr[k + 1]):
            l = indices[entry]  # noqa: E741
            if l <= k:
                continue
            kl = np.float32(0)
            lk = np.float32(0)
            for axis in range(dim):
                kl += U[k, axis] * V[l, axis]
                lk += U[l, axis] * V[k, axis]
            total = np.float32(0)
            for positive in (positives[k], positives[l]):
                total += _softplus_excess((kl - positive) * inverse_t, num_negatives)
                total += _softplus_excess((lk - positive) * inverse_t, num_negatives)
            data[entry] = total


@numba.njit(parallel=True, cache=True)
def _mirror(indptr, indices, data):
    """Copy the upper triangle to the lower one; rows are sorted, so the twin is found by bisection."""
    for k in numba.prange(len(indptr) - 1):
        for entry in range(indptr[k], indptr[k + 1]):
            l = indices[entry]  # noqa: E741
            if l < k:
                row = indices[indptr[l] : indptr[l + 1]]
                data[entry] = data[indptr[l] + np.searchsorted(row, k)]
