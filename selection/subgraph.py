"""A smaller graph: of some of the nodes, or of their strongest links.

Legend: n nodes, m nodes that are kept.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numba
import numpy as np
import scipy.sparse as sp
from jaxtyping import Int32, Int64

from selection.threads import in_ranges


def subgraph(
    affinity: sp.csr_array, nodes: Int64[np.ndarray, "m"], places: Int32[np.ndarray, "n"]
) -> sp.csr_array:
    """The graph of some nodes, in O(their links); scipy's own indexing takes O(n) for every part.

    Args:
        affinity: symmetric [n, n], with sorted indices.
        nodes: to keep, ascending; node i of the result is `nodes[i]`.
        places: -1 everywhere, and again afterwards; whoever asks for many parts makes it once.

    Returns:
        Symmetric [m, m], with sorted indices.
    """
    num_nodes = len(nodes)
    source = affinity.indptr, affinity.indices, affinity.data
    places[nodes] = np.arange(num_nodes, dtype=np.int32)
    indptr = np.zeros(num_nodes + 1, affinity.indptr.dtype)
    _count_inside(*source[:2], nodes, places, indptr)
    np.cumsum(indptr, out=indptr)
    indices, data = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.float32)
    _copy_inside(*source, nodes, places, indptr, indices, data)
    places[nodes] = -1
    return sp.csr_array((data, indices, indptr), shape=(num_nodes, num_nodes))


@numba.njit(nogil=True, cache=True)
def _count_inside(indptr, indices, nodes, places, counts):
    """counts[k + 1] = links of nodes[k] to others of `nodes`."""
    for k in range(len(nodes)):
        for entry in range(indptr[nodes[k]], indptr[nodes[k] + 1]):
            counts[k + 1] += places[indices[entry]] >= 0


@numba.njit(nogil=True, cache=True)
def _copy_inside(indptr, indices, data, nodes, places, starts, inside, weights):
    """These links, row by row."""
    for k in range(len(nodes)):
        end = starts[k]
        for entry in range(indptr[nodes[k]], indptr[nodes[k] + 1]):
            if places[indices[entry]] >= 0:
                inside[end] = places[indices[entry]]
                weights[end] = data[entry]
                end += 1


def strongest_links(
    affinity: sp.csr_array, num_links: int, pool: ThreadPoolExecutor | None = None
) -> sp.csr_array:
    """The links that are among the `num_links` strongest of one of their ends; symmetric, O(nnz).

    The eigenvectors need no more: with 20 of 112 links per node they cost a fifth, and the batches are the same to
    1 % of their affinity (benchmarks/NOTES.md). The rows are divided among the threads of `pool`.
    """
    num_nodes, links = affinity.shape[0], (affinity.indptr, affinity.indices, affinity.data)
    if affinity.nnz <= num_links * num_nodes:
        return affinity
    least = np.empty(num_nodes, np.float32)
    in_ranges(partial(_find_least, *links, num_links, least), num_nodes, pool)
    kept_ptr = np.zeros_like(affinity.indptr)
    in_ranges(partial(_count_strong, *links, least, kept_ptr[1:]), num_nodes, pool)
    np.cumsum(kept_ptr, out=kept_ptr)
    indices, data = np.empty(kept_ptr[-1], np.int32), np.empty(kept_ptr[-1], np.float32)
    in_ranges(partial(_copy_strong, *links, least, kept_ptr, indices, data), num_nodes, pool)
    return sp.csr_array((data, indices, kept_ptr), shape=affinity.shape)


@numba.njit(nogil=True, cache=True)
def _find_least(indptr, indices, data, num_links, least, start, stop):
    """least[i] = the weakest link that i itself keeps. By hand, as np.partition takes 9 s to compile."""
    strongest = np.empty(num_links, np.float32)  # in descending order
    for row in range(start, stop):
        strongest[:] = -np.inf
        for entry in range(indptr[row], indptr[row + 1]):
            place = num_links
            while place > 0 and strongest[place - 1] < data[entry]:
                if place < num_links:
                    strongest[place] = strongest[place - 1]
                place -= 1
            if place < num_links:
                strongest[place] = data[entry]
        least[row] = strongest[num_links - 1]


@numba.njit(nogil=True, cache=True)
def _count_strong(indptr, indices, data, least, counts, start, stop):
    """counts[i] = links that i or the other end keeps."""
    for row in range(start, stop):
        for entry in range(indptr[row], indptr[row + 1]):
            counts[row] += data[entry] >= min(least[row], least[indices[entry]])


@numba.njit(nogil=True, cache=True)
def _copy_strong(indptr, indices, data, least, kept_ptr, kept_indices, kept_data, start, stop):
    for row in range(start, stop):
        place = kept_ptr[row]
        for entry in range(indptr[row], indptr[row + 1]):
            if data[entry] >= min(least[row], least[indices[entry]]):
                kept_indices[place], kept_data[place] = indices[entry], data[entry]
                place += 1
