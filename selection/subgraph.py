"""The graph of some of the nodes.

Legend: n nodes, m nodes that are kept.
"""

import numba
import numpy as np
import scipy.sparse as sp
from jaxtyping import Int32, Int64


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
