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
    places[nodes] = np.arange(len(nodes), dtype=np.int32)
    starts, ends = affinity.indptr[nodes], affinity.indptr[nodes + 1]
    most = int((ends - starts).sum())
    indices, data = np.empty(most, np.int32), np.empty(most, np.float32)
    indptr = np.zeros(len(nodes) + 1, affinity.indptr.dtype)
    _copy_inside(starts, ends, affinity.indices, affinity.data, places, indptr, indices, data)
    places[nodes] = -1
    kept = slice(indptr[-1])  # memory that nobody writes to is not taken
    return sp.csr_array((data[kept], indices[kept], indptr), shape=(len(nodes),) * 2)


@numba.njit(nogil=True, cache=True)
def _copy_inside(starts, ends, indices, data, places, indptr, inside, weights):
    """The links to others of the nodes, row by row."""
    place = 0
    for k in range(len(starts)):
        for entry in range(starts[k], ends[k]):
            if places[indices[entry]] >= 0:
                inside[place], weights[place] = places[indices[entry]], data[entry]
                place += 1
        indptr[k + 1] = place


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
