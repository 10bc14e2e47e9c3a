"""Swaps between finished batches, judged by the true InfoNCE of the two and by their affinity.

The affinity is a sum over pairs, the loss is not: a row that is confused with one partner already gains little from
a second. So the affinity only proposes: who meets (`selection/meetings.py`), and which of the other batch are missed
least. A swap is made when it raises F, the loss of both batches (`selection/gains.py`), plus `affinity_share` times the
affinity inside. Any two batches may trade.

Time per sweep: O(n * tries * B d) at worst for offers, and O(B^2) for each swap that is made. Memory: n * B * 4 bytes
for e.

Legend: n nodes, m batches, b batch size, d dimensions.
"""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numba
import numpy as np
import scipy.sparse as sp
from jaxtyping import Float32, Int64

from selection.gains import (
    LOWEST_EXPONENT,
    Points,
    State,
    gain_of_joining,
    gain_of_replacing,
    reach,
    replace,
    sum_up,
    weigh,
)
from selection.meetings import Meetings, arrange_meetings
from selection.mending import batch_of_each
from selection.progress import Progress, silent
from selection.threads import in_ranges, thread_pool

BATCHES_TRIED = 6
SHORT_LIST = 16
PARTNERS_TRIED = 4
_MAX_ROUNDS = 160
"""Rounds of meetings in a sweep. Those that would come later bring together batches that are hardly linked: a third of
all meetings, and no gain (benchmarks/NOTES.md)."""

_LEAST_GAIN = np.float32(1e-3)
_MOST_WORTH = np.float32(1.5)
"""A node is not expected to be worth more than this times its present worth anywhere else. Offers that have no hope
even then are not computed: 0.2 % of the gains are missed, and half of the time is saved (benchmarks/NOTES.md)."""


def swap_refine(
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
        affinity: symmetric [n, n] with sorted indices; negative entries keep nodes apart, if it counts at all.
        U: first embeddings, on the unit sphere.
        V: second embeddings.
        batches: node ids, each once.
        temperature: t of the loss.
        affinity_share: how much a unit of affinity counts beside a unit of F; 0 looks at the loss alone.
        num_sweeps: most sweeps; one without a swap is the last.
        progress: told after each sweep.
    """
    if num_sweeps == 0 or len(batches) < 2:
        return batches.copy()
    inverse_t = np.float32(1 / temperature)
    positives = np.exp(np.maximum((np.einsum("nd,nd->n", U, V) - 1) * inverse_t, LOWEST_EXPONENT))
    points = Points(
        affinity.indptr, affinity.indices, affinity.data, U, V, positives.astype(np.float32),
        inverse_t, np.float32(affinity_share),
    )  # fmt: skip
    with thread_pool() as pool:
        state = _open(points, batches.copy(), pool)
        for sweep in range(num_sweeps):
            meetings = arrange_meetings(affinity, state.batch_of, len(batches), BATCHES_TRIED, pool)
            num_swaps = _sweep(points, state, meetings, pool)
            progress("swap", sweep + 1, num_sweeps, "sweeps")
            if not num_swaps:
                break
    return state.batches


def _open(points: Points, batches: Int64[np.ndarray, "m b"], pool: ThreadPoolExecutor) -> State:
    """Where every node is, and the sums of every batch."""
    batch_of, slot_of = places(batches)
    num_batches, size = batches.shape
    inside = np.zeros(batches.size, np.float32)
    exps = np.empty((num_batches, size, size), np.float32)
    rows, columns, worth = np.empty((3, num_batches, size), np.float32)
    state = State(batches, batch_of, slot_of, inside, exps, rows, columns, worth)
    in_ranges(lambda start, stop: _fill(points, state, start, stop), num_batches, pool)
    return state


def _sweep(points: Points, state: State, meetings: Meetings, pool: ThreadPoolExecutor) -> int:
    """Hold the meetings, round by round; returns the number of swaps made."""
    num_swaps = 0
    for first, last in pairwise(meetings.round_starts[: _MAX_ROUNDS + 1].tolist()):

        def hold(start: int, stop: int, first: int = first) -> int:
            return _hold_meetings(
                points, state, meetings.first_batch, meetings.second_batch, meetings.first_wish,
                meetings.nodes, first + start, first + stop,
            )  # fmt: skip

        num_swaps += sum(in_ranges(hold, last - first, pool))
    return num_swaps


def places(
    batches: Int64[np.ndarray, "m b"],
) -> tuple[Int64[np.ndarray, "n"], Int64[np.ndarray, "n"]]:
    """The batch of each node, and its slot there."""
    batch_of = batch_of_each(batches, batches.size)
    slot_of = np.empty(batches.size, np.int64)
    slot_of[batches.ravel()] = np.tile(np.arange(batches.shape[1]), len(batches))
    return batch_of, slot_of


@numba.njit(nogil=True, cache=True)
def _fill(points, state, start, stop):
    """Of batches start .. stop - 1: affinity inside, e, its sums, and what each node is worth."""
    for number in range(start, stop):
        batch, exps = state.batches[number], state.exps[number]
        for place in range(len(batch)):
            state.inside[batch[place]] = _affinity_to(points, state, batch[place], number)
            reach(points, batch[place], batch, exps[place], state.worth[number])
        sum_up(exps, state.rows[number], state.columns[number])
        weigh(exps, state.rows[number], state.columns[number], state.worth[number])


@numba.njit(nogil=True, cache=True)
def _hold_meetings(points, state, first_batch, second_batch, first_wish, nodes, start, stop):
    """Meetings start .. stop - 1, all of one round; returns the number of swaps made."""
    num_swaps = 0
    scratch = np.empty((8, state.batches.shape[1]), np.float32)
    for meeting in range(start, stop):
        a, b = first_batch[meeting], second_batch[meeting]
        for wish in range(first_wish[meeting], first_wish[meeting + 1]):
            i = np.int64(nodes[wish])
            home = state.batch_of[i]
            if home == a:
                num_swaps += _offer(points, state, i, a, b, scratch)
            elif home == b:
                num_swaps += _offer(points, state, i, b, a, scratch)
            # else i has moved elsewhere since it made the wish
    return num_swaps


@numba.njit(nogil=True, cache=True)
def _offer(points, state, i, home, away, scratch):
    """Exchange i with the best of the other batch if that gains; returns 1 or 0."""
    row, column, row_j, column_j, link, missed, score, back = scratch
    worth = state.worth[home, state.slot_of[i]]
    to_away = _links_to(points, state, i, away, link)
    moved = points.affinity_share * (to_away - state.inside[i])
    if moved + (_MOST_WORTH - 1) * worth <= 0:
        return 0
    reach(points, i, state.batches[away], row, column)
    hope = moved - worth + gain_of_joining(state, away, row, column, points.positives[i])
    if hope <= 0:
        return 0
    _look_around(points, state, home, away, link, missed, score, back)
    best, best_gain = -1, _LEAST_GAIN
    for _ in range(min(PARTNERS_TRIED, SHORT_LIST, len(score))):
        slot = score.argmax()
        score[slot] = -np.inf
        if hope + back[slot] + (_MOST_WORTH - 1) * state.worth[away, slot] <= best_gain:
            continue
        j = state.batches[away, slot]
        reach(points, j, state.batches[home], row_j, column_j)
        gain = moved + back[slot]
        gain += gain_of_replacing(state, away, slot, row, column, points.positives[i])
        gain += gain_of_replacing(
            state, home, state.slot_of[i], row_j, column_j, points.positives[j]
        )
        if gain > best_gain:
            best, best_gain = slot, gain
    if best < 0:
        return 0
    j = state.batches[away, best]
    reach(points, j, state.batches[home], row_j, column_j)
    replace(state, away, best, row, column, points.positives[i])
    replace(state, home, state.slot_of[i], row_j, column_j, points.positives[j])
    _swap(points, state, i, j)
    return 1


@numba.njit(nogil=True, cache=True)
def _look_around(points, state, home, away, link, missed, score, back):
    """How much the nodes of `away` that are missed least speak for an exchange with a node of `home`.

    back[s] is what the affinity gains when slot s moves over, exactly. score[s] adds a guess at what the loss gains: a
    node is worth as much elsewhere, relative to what it is worth here, as it has affinity there.
    """
    share, others = points.affinity_share, state.batches[away]
    score[:] = -np.inf
    for slot in range(len(others)):
        missed[slot] = state.worth[away, slot] + share * (
            state.inside[others[slot]] + 2 * link[slot]
        )
    for _ in range(min(SHORT_LIST, len(others))):
        slot = missed.argmin()
        missed[slot] = np.inf
        inside = state.inside[others[slot]]
        to_home = _affinity_to(points, state, others[slot], home)
        likeness = min(to_home / inside, _MOST_WORTH) if inside > 0 else _MOST_WORTH
        back[slot] = share * (to_home - inside - 2 * link[slot])
        score[slot] = back[slot] + (likeness - 1) * state.worth[away, slot]


@numba.njit(nogil=True, cache=True)
def _links_to(points, state, node, batch, link):
    """link[s] = affinity to slot s of a batch; returns their sum."""
    link[:] = 0
    total = np.float32(0)
    for entry in range(points.indptr[node], points.indptr[node + 1]):
        neighbor = points.indices[entry]
        if state.batch_of[neighbor] == batch:
            link[state.slot_of[neighbor]] = points.data[entry]
            total += points.data[entry]
    return total


@numba.njit(nogil=True, cache=True)
def _affinity_to(points, state, node, batch):
    total = np.float32(0)
    for entry in range(points.indptr[node], points.indptr[node + 1]):
        if state.batch_of[points.indices[entry]] == batch:
            total += points.data[entry]
    return total


@numba.njit(nogil=True, cache=True)
def _swap(points, state, i, j):
    """Exchange i and j and bring `inside` of them and of their neighbours up to date."""
    batch_of, slot_of, inside = state.batch_of, state.slot_of, state.inside
    a, b = batch_of[i], batch_of[j]
    for node, home, away in ((i, a, b), (j, b, a)):
        for entry in range(points.indptr[node], points.indptr[node + 1]):
            neighbor = points.indices[entry]
            if batch_of[neighbor] == home:
                inside[neighbor] -= points.data[entry]
            elif batch_of[neighbor] == away:
                inside[neighbor] += points.data[entry]
        batch_of[node] = away
    slot_of[i], slot_of[j] = slot_of[j], slot_of[i]
    state.batches[b, slot_of[i]] = i
    state.batches[a, slot_of[j]] = j
    for node in (i, j):
        inside[node] = _affinity_to(points, state, node, batch_of[node])
