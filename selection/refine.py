"""Swaps between finished batches, the last step of the spectral strategy.

Every node looks at the batch to which it has the most affinity and changes places with the node there whose swap
gains most. The partition above only exchanges nodes between the children of one split; here any two batches
may trade. Sizes never change, the captured affinity never falls. A sweep is O(n * B * neighbours) at worst.

Legend: n nodes, m batches, b batch size.
"""

import numba
import numpy as np
import scipy.sparse as sp
from jaxtyping import Int64

from selection.progress import Progress, silent


def swap_refine(
    affinity: sp.csr_array,
    batches: Int64[np.ndarray, "m b"],
    num_sweeps: int,
    progress: Progress = silent,
) -> Int64[np.ndarray, "m b"]:
    """Improve batches by swaps.

    Args:
        affinity: symmetric [n, n] with sorted indices.
        batches: node ids, each once.
        num_sweeps: most sweeps; one without a swap is the last.
        progress: told after each sweep.
    """
    batches = batches.copy()
    batch_of, slot_of = places(batches)
    arrays = (affinity.indptr, affinity.indices, affinity.data, batches, batch_of, slot_of)
    inside = affinity_inside(*arrays[:3], batch_of)
    for sweep in range(num_sweeps):
        num_swaps = _sweep(*arrays, inside)
        progress("swap", sweep + 1, num_sweeps, "sweeps")
        if not num_swaps:
            break
    return batches


def places(
    batches: Int64[np.ndarray, "m b"],
) -> tuple[Int64[np.ndarray, "n"], Int64[np.ndarray, "n"]]:
    """The batch of each node, and its slot there."""
    batch_of, slot_of = np.empty((2, batches.size), np.int64)
    batch_of[batches.ravel()] = np.repeat(np.arange(len(batches)), batches.shape[1])
    slot_of[batches.ravel()] = np.tile(np.arange(batches.shape[1]), len(batches))
    return batch_of, slot_of


@numba.njit(parallel=True, cache=True)
def affinity_inside(indptr, indices, data, batch_of):
    """Affinity of each node to its own batch."""
    inside = np.zeros(len(batch_of), np.float32)
    for node in numba.prange(len(batch_of)):
        for entry in range(indptr[node], indptr[node + 1]):
            if batch_of[indices[entry]] == batch_of[node]:
                inside[node] += data[entry]
    return inside


@numba.njit(cache=True)
def _sweep(indptr, indices, data, batches, batch_of, slot_of, inside):
    """Offer every node one swap; returns the number of swaps made."""
    num_batches = len(batches)
    to_batch = np.zeros(num_batches, np.float32)  # affinity of the node at hand to each batch
    to_node = np.zeros(len(batch_of), np.float32)  # and to each node; both are cleared after use
    num_swaps = 0
    for i in range(len(batch_of)):
        first, last = indptr[i], indptr[i + 1]
        home = batch_of[i]
        away = home
        for entry in range(first, last):
            neighbor = indices[entry]
            to_node[neighbor] = data[entry]
            batch = batch_of[neighbor]
            to_batch[batch] += data[entry]
            if batch != home and (away == home or to_batch[batch] > to_batch[away]):
                away = batch
        gain_i = to_batch[away] - inside[i]
        for entry in range(first, last):
            to_batch[batch_of[indices[entry]]] = 0
        if away != home and gain_i > 0:
            j = _best_partner(
                indptr, indices, data, batches[away], batch_of, home, inside, to_node, gain_i
            )
            if j >= 0:
                swap(indptr, indices, data, batches, batch_of, slot_of, inside, i, j)
                num_swaps += 1
        for entry in range(first, last):
            to_node[indices[entry]] = 0
    return num_swaps


@numba.njit(cache=True)
def _best_partner(indptr, indices, data, candidates, batch_of, home, inside, to_node, gain_i):
    """The node of the other batch whose swap gains most, or -1 where none gains."""
    best, best_gain = -1, np.float32(1e-5)
    for j in candidates:
        bound = gain_i - inside[j] - 2 * to_node[j]
        if bound + inside[j] <= best_gain and gain_i <= inside[j]:
            continue
        to_home = np.float32(0)
        for entry in range(indptr[j], indptr[j + 1]):
            if batch_of[indices[entry]] == home:
                to_home += data[entry]
        if bound + to_home > best_gain:
            best, best_gain = j, bound + to_home
    return best


@numba.njit(cache=True)
def swap(indptr, indices, data, batches, batch_of, slot_of, inside, i, j):
    """Exchange i and j and bring `inside` of them and of their neighbours up to date."""
    a, b = batch_of[i], batch_of[j]
    for node, home, away in ((i, a, b), (j, b, a)):
        for entry in range(indptr[node], indptr[node + 1]):
            neighbor = indices[entry]
            if batch_of[neighbor] == home:
                inside[neighbor] -= data[entry]
            elif batch_of[neighbor] == away:
                inside[neighbor] += data[entry]
        batch_of[node] = away
    slot_of[i], slot_of[j] = slot_of[j], slot_of[i]
    batches[b, slot_of[i]] = i
    batches[a, slot_of[j]] = j
    for node in (i, j):
        inside[node] = 0
        for entry in range(indptr[node], indptr[node + 1]):
            if batch_of[indices[entry]] == batch_of[node]:
                inside[node] += data[entry]
