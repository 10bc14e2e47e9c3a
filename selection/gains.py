"""What the InfoNCE of a batch gains and loses when nodes come and go.

With e(k, l) = exp((u_k.v_l - 1) / t), and R and C the sums of e over a row and a column of a batch, its loss grows with

    F = sum over its nodes k of log(R_k / e(k, k)) + log(C_k / e(k, k)),

which is 2 B times the mean InfoNCE of both directions. R and C make the gain of one exchange O(B), once the e of the
newcomer are known, which is O(B d).

Legend: n nodes, m batches, b batch size, d dimensions.
"""

from typing import NamedTuple

import numba
import numpy as np

LOWEST_EXPONENT = np.float32(-80)  # e^-80 is still a normal float32
_LEAST_SHARE = np.float32(1e-6)  # keeps the logarithm finite when one node is all of a row's sum


class Points(NamedTuple):
    """What a sweep only reads: graph, embeddings, e(k, k), and the two weights."""

    indptr: np.ndarray
    indices: np.ndarray
    data: np.ndarray
    U: np.ndarray
    V: np.ndarray
    positives: np.ndarray
    inverse_t: np.float32
    affinity_share: np.float32


class State(NamedTuple):
    """The batches, where each node is, and the sums that make a gain cheap to compute."""

    batches: np.ndarray
    batch_of: np.ndarray
    slot_of: np.ndarray
    inside: np.ndarray
    """[n]: affinity of each node to its own batch."""

    exps: np.ndarray
    """[m, b, b]: e inside each batch."""

    rows: np.ndarray
    """[m, b]: R."""

    columns: np.ndarray
    """[m, b]: C."""

    worth: np.ndarray
    """[m, b]: what F of the batch loses when the node leaves."""


@numba.njit(nogil=True, fastmath=True, cache=True)
def reach(points, node, batch, row, column):
    """row[x] = e(node, x) and column[x] = e(x, node) for the nodes x of a batch."""
    U, V = points.U, points.V
    for place in range(len(batch)):
        other = batch[place]
        ahead = np.float32(0)
        back = np.float32(0)
        for axis in range(U.shape[1]):
            ahead += U[node, axis] * V[other, axis]
            back += U[other, axis] * V[node, axis]
        row[place] = ahead
        column[place] = back
    for place in range(len(batch)):
        row[place] = np.exp(max((row[place] - np.float32(1)) * points.inverse_t, LOWEST_EXPONENT))
        column[place] = np.exp(
            max((column[place] - np.float32(1)) * points.inverse_t, LOWEST_EXPONENT)
        )


@numba.njit(nogil=True, fastmath=True, cache=True)
def sum_up(exps, rows, columns):
    """Row and column sums, made anew, so that rounding errors do not add up over swaps."""
    columns[:] = 0
    for k in range(len(rows)):
        total = np.float32(0)
        for x in range(len(rows)):
            total += exps[k, x]
            columns[x] += exps[k, x]
        rows[k] = total


@numba.njit(nogil=True, fastmath=True, cache=True)
def weigh(exps, rows, columns, worth):
    """worth[j] = what F of the batch loses when node j leaves."""
    for j in range(len(worth)):
        total = np.log(rows[j] / exps[j, j]) + np.log(columns[j] / exps[j, j])
        product = 1.0  # one logarithm for eight factors: at least 1e-48, fine in float64
        for k in range(len(worth)):
            if k != j:
                product *= max(1 - exps[k, j] / rows[k], _LEAST_SHARE)
                product *= max(1 - exps[j, k] / columns[k], _LEAST_SHARE)
            if k % 4 == 3:
                total -= np.log(product)
                product = 1.0
        worth[j] = total - np.log(product)


@numba.njit(nogil=True, fastmath=True, cache=True)
def gain_of_joining(state, number, row, column, positive):
    """What F of a batch gains when a node joins it and nobody leaves.

    row, column: e between the node and the batch, see `reach`; positive: e(node, node).
    """
    rows, columns = state.rows[number], state.columns[number]
    gain = 0.0
    product = 1.0  # one logarithm for eight factors: at most e^640, fine in float64
    row_sum = positive
    column_sum = positive
    for k in range(len(rows)):
        product *= 1 + column[k] / rows[k]
        product *= 1 + row[k] / columns[k]
        if k % 4 == 3:
            gain += np.log(product)
            product = 1.0
        row_sum += row[k]
        column_sum += column[k]
    gain += np.log(product) + np.log(row_sum / positive) + np.log(column_sum / positive)
    return np.float32(gain)


@numba.njit(nogil=True, fastmath=True, cache=True)
def gain_of_replacing(state, number, slot, row, column, positive):
    """What F of a batch gains when a node takes the slot of another; exact."""
    exps, rows, columns = state.exps[number], state.rows[number], state.columns[number]
    gain = 0.0
    product = 1.0
    row_sum = positive
    column_sum = positive
    for k in range(len(rows)):
        if k != slot:
            kept_row = max(rows[k] - exps[k, slot], exps[k, k])
            kept_column = max(columns[k] - exps[slot, k], exps[k, k])
            product *= (kept_row + column[k]) / rows[k]
            product *= (kept_column + row[k]) / columns[k]
            row_sum += row[k]
            column_sum += column[k]
        if k % 4 == 3:
            gain += np.log(product)
            product = 1.0
    own = exps[slot, slot]
    gain += np.log(product)
    gain += np.log(row_sum / positive) + np.log(column_sum / positive)
    return np.float32(gain - np.log(rows[slot] / own) - np.log(columns[slot] / own))


@numba.njit(nogil=True, fastmath=True, cache=True)
def replace(state, number, slot, row, column, positive):
    """Put a node into a slot of a batch and bring its sums up to date."""
    exps = state.exps[number]
    for k in range(len(row)):
        exps[k, slot] = column[k]
        exps[slot, k] = row[k]
    exps[slot, slot] = positive
    sum_up(exps, state.rows[number], state.columns[number])
    weigh(exps, state.rows[number], state.columns[number], state.worth[number])
