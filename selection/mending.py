"""Groups of exactly K nodes, from parts of about that size.

Engines that let sizes float, our moves of single nodes as well as METIS, leave some parts with a few nodes too many.

Time: O(nnz + n log n). Memory: 28 bytes per node.

Legend: n nodes, c groups, k group size, o nodes that are too many in their part; m batches of size b.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numba
import numpy as np
import scipy.sparse as sp
from jaxtyping import Float32, Int, Int64

from selection.threads import in_ranges


def mended(
    affinity: sp.csr_array, parts: Int64[np.ndarray, "n"], group_size: int
) -> Int64[np.ndarray, "c k"]:
    """Groups of exactly `group_size`, from parts of about that size.

    In a part that is too large the nodes with the least affinity inside leave. Each goes to the part with room to which
    it has most affinity, the strongest ties first; who has none goes where there is room.

    Args:
        affinity: symmetric [n, n]; negative entries keep nodes apart.
        parts: the part of each node, from 0 to n / `group_size` - 1.
        group_size: K; n is a multiple of it.
    """
    num_parts = len(parts) // group_size
    over = _over(affinity, parts, group_size)
    parts = parts.copy()
    parts[over] = num_parts  # none
    room = np.append(group_size - np.bincount(parts, minlength=num_parts + 1)[:num_parts], 0)
    ones = np.ones(len(parts), np.float32)
    one_hot = sp.csr_array((ones, (np.arange(len(parts)), parts)), (len(parts), num_parts + 1))
    ties = sp.csr_array(affinity[over] @ one_hot).tocoo()
    strongest_first = np.argsort(np.negative(ties.data), kind="stable")
    strongest_first = strongest_first[ties.data[strongest_first] > 0]
    rows, columns = (places[strongest_first] for places in ties.coords)
    seats = _seat(rows, columns, len(over), room)
    seats[seats < 0] = np.repeat(np.arange(num_parts + 1), room)
    parts[over] = seats
    return np.argsort(parts, kind="stable").reshape(num_parts, group_size)


def _over(
    affinity: sp.csr_array, parts: Int64[np.ndarray, "n"], group_size: int
) -> Int64[np.ndarray, "o"]:
    """The nodes that are too many in their part, those with the least affinity inside it."""
    inside = affinity_inside(affinity, parts)
    order = np.lexsort((np.negative(inside), parts))  # by part, the closest first
    first_place = np.searchsorted(parts[order], parts[order])
    return order[np.arange(len(parts)) - first_place >= group_size]


def batch_of_each(
    batches: Int64[np.ndarray, "m b"], num_nodes: int, dtype: type[np.integer] = np.int64
) -> Int[np.ndarray, "n"]:
    """The batch of every node; -1 for those in none."""
    batch_of = np.full(num_nodes, -1, dtype)
    batch_of[batches.ravel()] = np.repeat(np.arange(len(batches), dtype=dtype), batches.shape[1])
    return batch_of


def affinity_inside(
    affinity: sp.csr_array,
    parts: Int[np.ndarray, "n"],
    pool: ThreadPoolExecutor | None = None,
) -> Float32[np.ndarray, "n"]:
    """The affinity of each node to the others of its part."""
    inside = np.zeros(len(parts), np.float32)
    arrays = affinity.indptr, affinity.indices, affinity.data
    in_ranges(partial(_sum_inside, *arrays, parts, inside), len(parts), pool)
    return inside


@numba.njit(nogil=True, cache=True)
def _sum_inside(indptr, indices, data, parts, inside, start, stop):
    for node in range(start, stop):
        for entry in range(indptr[node], indptr[node + 1]):
            if parts[indices[entry]] == parts[node]:
                inside[node] += data[entry]


@numba.njit(cache=True)
def _seat(rows, columns, num_rows, room):
    """Give each row the first of its columns, in the order given, that has room; -1 is none. Takes from `room`."""
    seats = np.full(num_rows, -1, np.int64)
    for row, column in zip(rows, columns):  # noqa: B905  # numba knows no strict
        if seats[row] < 0 and room[column] > 0:
            seats[row] = column
            room[column] -= 1
    return seats
