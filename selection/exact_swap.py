"""Swaps judged by the true InfoNCE of the two batches involved, and by their affinity.

The affinity is a sum over pairs, the loss is not: a row that is confused with one partner already gains little from
a second. With e(k, l) = exp((u_k.v_l - 1) / t), and R and C the sums of e over a row and a column of a batch, the loss
of the batch grows with

    F = sum over its nodes k of log(R_k / e(k, k)) + log(C_k / e(k, k)),

which is 2 B times the mean InfoNCE of both directions. A swap is made when it raises F of both batches plus
`affinity_share` times the affinity inside. The affinity only proposes: a node looks at the batches to which it has
most, and there at the nodes that are missed least; what decides is exact.

Time per node and sweep: O(batches tried * (B d + partners tried * B d)). Memory: N * B * 4 bytes for e.

Legend: n nodes, m batches, b batch size, d dimensions.
"""

import numba
import numpy as np
import scipy.sparse as sp
from jaxtyping import Float32, Int64

from selection.progress import Progress, silent
from selection.refine import affinity_inside, places, swap

BATCHES_TRIED = 4
PARTNERS_TRIED = 4
_LEAST_GAIN = np.float32(1e-3)
_LOWEST_EXPONENT = np.float32(-80)  # e^-80 is still a normal float32
_LEAST_SHARE = np.float32(1e-6)  # keeps the logarithm finite when one node is all of a row's sum


def exact_swaps(
    affinity: sp.csr_array,
    U: Float32[np.ndarray, "n d"],
    V: Float32[np.ndarray, "n d"],
    batches: Int64[np.ndarray, "m b"],
    temperature: float,
    affinity_share: float,
    num_sweeps: int,
    progress: Progress = silent,
) -> Int64[np.ndarray, "m b"]:
    """Improve batches by swaps; F + affinity_share * affinity inside never falls.

    Args:
        affinity: symmetric [n, n] with sorted indices.
        U: first embeddings, on the unit sphere.
        V: second embeddings.
        batches: node ids, each once.
        temperature: t of the loss.
        affinity_share: how much a unit of affinity counts beside a unit of F; 0 looks at the loss alone.
        num_sweeps: most sweeps; one without a swap is the last.
        progress: told after each sweep.
    """
    batches = batches.copy()
    if num_sweeps == 0:
        return batches
    batch_of, slot_of = places(batches)
    graph = affinity.indptr, affinity.indices, affinity.data
    inside = affinity_inside(*graph, batch_of)
    inverse_t = np.float32(1 / temperature)
    positives = np.exp(np.maximum((np.einsum("nd,nd->n", U, V) - 1) * inverse_t, _LOWEST_EXPONENT))
    num_batches, size = batches.shape
    exps = np.empty((num_batches, size, size), np.float32)
    rows, columns, worth = np.empty((3, num_batches, size), np.float32)
    _open_batches(U, V, batches, inverse_t, exps, rows, columns, worth)
    for sweep in range(num_sweeps):
        num_swaps = _sweep(
            *graph, U, V, positives.astype(np.float32), inverse_t, np.float32(affinity_share),
            batches, batch_of, slot_of, inside, exps, rows, columns, worth,
        )  # fmt: skip
        progress("exact swap", sweep + 1, num_sweeps, "sweeps")
        if not num_swaps:
            break
    return batches


@numba.njit(fastmath=True, cache=True)
def _exp(similarity, inverse_t):
    return np.exp(max((similarity - np.float32(1)) * inverse_t, _LOWEST_EXPONENT))


@numba.njit(parallel=True, cache=True)
def _open_batches(U, V, batches, inverse_t, exps, rows, columns, worth):
    """Fill e, its sums, and what each node is worth to its batch."""
    for number in numba.prange(len(batches)):
        batch = batches[number]
        for place in range(len(batch)):
            _reach(U, V, batch[place], batch, inverse_t, exps[number, place], worth[number])
        for place in range(len(batch)):
            rows[number, place] = exps[number, place].sum()
            columns[number, place] = exps[number, :, place].sum()
        _weigh_nodes(exps[number], rows[number], columns[number], worth[number])


@numba.njit(fastmath=True, cache=True)
def _reach(U, V, node, batch, inverse_t, row, column):
    """row[x] = e(node, x) and column[x] = e(x, node) for the nodes x of a batch."""
    for place in range(len(batch)):
        other = batch[place]
        ahead = np.float32(0)
        back = np.float32(0)
        for axis in range(U.shape[1]):
            ahead += U[node, axis] * V[other, axis]
            back += U[other, axis] * V[node, axis]
        row[place] = _exp(ahead, inverse_t)
        column[place] = _exp(back, inverse_t)


@numba.njit(fastmath=True, cache=True)
def _weigh_nodes(exps, rows, columns, worth):
    """worth[j] = what F of the batch loses when node j leaves."""
    for j in range(len(worth)):
        total = np.log(rows[j] / exps[j, j]) + np.log(columns[j] / exps[j, j])
        for k in range(len(worth)):
            if k != j:
                total -= np.log(max(1 - exps[k, j] / rows[k], _LEAST_SHARE))
                total -= np.log(max(1 - exps[j, k] / columns[k], _LEAST_SHARE))
        worth[j] = total


@numba.njit(fastmath=True, cache=True)
def _gain_of_joining(rows, columns, row, column, positive):
    """What F of a batch gains when a node joins it, nobody leaves."""
    gain = np.float32(0)
    row_sum = positive
    column_sum = positive
    for k in range(len(rows)):
        gain += np.log((1 + column[k] / rows[k]) * (1 + row[k] / columns[k]))
        row_sum += row[k]
        column_sum += column[k]
    return gain + np.log(row_sum / positive) + np.log(column_sum / positive)


@numba.njit(fastmath=True, cache=True)
def _gain_of_replacing(exps, rows, columns, slot, row, column, positive):
    """What F of a batch gains when a node takes the slot of another; exact."""
    gain = np.float32(0)
    row_sum = positive
    column_sum = positive
    for k in range(len(rows)):
        if k != slot:
            kept_row = max(rows[k] - exps[k, slot], exps[k, k])
            kept_column = max(columns[k] - exps[slot, k], exps[k, k])
            gain += np.log((kept_row + column[k]) / rows[k] * ((kept_column + row[k]) / columns[k]))
            row_sum += row[k]
            column_sum += column[k]
    gain += np.log(row_sum / positive) + np.log(column_sum / positive)
    own = exps[slot, slot]
    return gain - np.log(rows[slot] / own) - np.log(columns[slot] / own)


@numba.njit(fastmath=True, cache=True)
def _replace(exps, rows, columns, slot, row, column, positive):
    """Put a node into a slot; sums are made anew, so that rounding errors do not add up over swaps."""
    for k in range(len(rows)):
        exps[k, slot] = column[k]
        exps[slot, k] = row[k]
    exps[slot, slot] = positive
    for k in range(len(rows)):
        rows[k] = exps[k].sum()
        columns[k] = exps[:, k].sum()


@numba.njit(cache=True)
def _sweep(
    indptr, indices, data, U, V, positives, inverse_t, affinity_share,
    batches, batch_of, slot_of, inside, exps, rows, columns, worth,
):  # fmt: skip
    """Offer every node the best swap that its neighbours propose; returns the number of swaps made."""
    size = batches.shape[1]
    to_batch = np.zeros(len(batches), np.float32)  # affinity of the node at hand to each batch
    to_node = np.zeros(len(batch_of), np.float32)  # and to each node; both are cleared after use
    near = np.empty(len(batches), np.int64)
    row, column, row_j, column_j, score = np.empty((5, size), np.float32)
    num_swaps = 0
    for i in range(len(batch_of)):
        first, last = indptr[i], indptr[i + 1]
        num_near = 0
        for entry in range(first, last):
            to_node[indices[entry]] = data[entry]
            batch = batch_of[indices[entry]]
            if batch != batch_of[i] and to_batch[batch] == 0:
                near[num_near] = batch
                num_near += 1
            to_batch[batch] += data[entry]
        j = _best_partner(
            indptr, indices, data, U, V, positives, inverse_t, affinity_share, batches, batch_of, slot_of,
            inside, exps, rows, columns, worth, to_batch, to_node, near, num_near,
            row, column, row_j, column_j, score, i,
        )  # fmt: skip
        for entry in range(first, last):
            to_batch[batch_of[indices[entry]]] = 0
            to_node[indices[entry]] = 0
        if j >= 0:
            home, away = batch_of[i], batch_of[j]
            _reach(U, V, i, batches[away], inverse_t, row, column)
            _reach(U, V, j, batches[home], inverse_t, row_j, column_j)
            _replace(exps[away], rows[away], columns[away], slot_of[j], row, column, positives[i])
            _replace(
                exps[home], rows[home], columns[home], slot_of[i], row_j, column_j, positives[j]
            )
            _weigh_nodes(exps[away], rows[away], columns[away], worth[away])
            _weigh_nodes(exps[home], rows[home], columns[home], worth[home])
            swap(indptr, indices, data, batches, batch_of, slot_of, inside, i, j)
            num_swaps += 1
    return num_swaps


@numba.njit(cache=True)
def _best_partner(
    indptr, indices, data, U, V, positives, inverse_t, affinity_share, batches, batch_of, slot_of,
    inside, exps, rows, columns, worth, to_batch, to_node, near, num_near,
    row, column, row_j, column_j, score, i,
):  # fmt: skip
    """The node whose swap with i gains most, or -1 where none gains."""
    home, size = batch_of[i], batches.shape[1]
    best, best_gain = -1, _LEAST_GAIN
    for place in range(min(BATCHES_TRIED, num_near)):
        away = _take_strongest(near, place, num_near, to_batch)
        _reach(U, V, i, batches[away], inverse_t, row, column)
        moved = to_batch[away] - inside[i]
        joined = _gain_of_joining(rows[away], columns[away], row, column, positives[i])
        if joined - worth[home, slot_of[i]] + affinity_share * moved <= 0:
            continue
        for slot in range(size):
            j = batches[away, slot]
            score[slot] = -worth[away, slot] - affinity_share * (inside[j] + 2 * to_node[j])
        for _ in range(min(PARTNERS_TRIED, size)):
            slot = score.argmax()
            score[slot] = -np.inf
            j = batches[away, slot]
            _reach(U, V, j, batches[home], inverse_t, row_j, column_j)
            back = _affinity_to(indptr, indices, data, batch_of, j, home) - inside[j]
            gain = affinity_share * (moved + back - 2 * to_node[j])
            gain += _gain_of_replacing(
                exps[away], rows[away], columns[away], slot, row, column, positives[i]
            )
            gain += _gain_of_replacing(
                exps[home], rows[home], columns[home], slot_of[i], row_j, column_j, positives[j]
            )
            if gain > best_gain:
                best, best_gain = j, gain
    return best


@numba.njit(cache=True)
def _take_strongest(near, place, num_near, to_batch):
    """Bring the strongest of near[place:] to `place`, and return it."""
    strongest = place
    for other in range(place + 1, num_near):
        if to_batch[near[other]] > to_batch[near[strongest]]:
            strongest = other
    near[place], near[strongest] = near[strongest], near[place]
    return near[place]


@numba.njit(cache=True)
def _affinity_to(indptr, indices, data, batch_of, node, batch):
    total = np.float32(0)
    for entry in range(indptr[node], indptr[node + 1]):
        if batch_of[indices[entry]] == batch:
            total += data[entry]
    return total
