"""Moves of single nodes between batches whose places have a price.

An exchange needs two nodes that gain together, and such pairs soon run out. A single node often gains by moving, but
sizes must stay. So a place in a batch that holds s nodes has a price, `step * (s - B)`: dear where it is crowded, less
than nothing where there is room. A node moves when its affinity less the price is higher elsewhere, which raises

    affinity inside - step / 2 * sum over the batches of (s - B)^2.

Each move makes room that draws the next one, so nodes change places in chains and circles of any length. In a round
the step rises from sweep to sweep until hardly a size is wrong; the next round begins with cheap places again, each
time a little dearer. What is wrong at the end is mended. With batches of 32 and 64 this alone, from random ones,
gathers more affinity than METIS and KaMinPar do (benchmarks/NOTES.md).

Nodes take turns. Those of one turn look around at the same time, in threads, and then move one after the other where
that still gains: the result does not depend on the threads. A node that stays remembers its lead, how much more
affinity it has at home than in its rival, the batch that came second. It looks again only when the moves of its
neighbours and the prices of the two may have used up the lead (that a third batch has become cheap, it does not
notice): twelve sweeps cost as much as two or three.

Time: O(nnz) for a look of all nodes. Memory: 13 bytes per node.

Legend: n nodes, m batches, b batch size, s sweeps.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numba
import numpy as np
import scipy.sparse as sp
from jaxtyping import Float64, Int64

from selection.mending import affinity_inside, batch_of_each, mended
from selection.progress import Progress, silent
from selection.threads import in_ranges, thread_pool

SWEEPS_PER_ROUND = 12
_LAST_STEP = 0.5, 8.0
"""The step at the end of a round: the larger of the first and the second / B, so that small batches, for which one node
more is much, end near their size as well."""

_NUM_TURNS = 16
_LEAST_GAIN = np.float32(1e-4)
_MANY_MOVES = 500  # to tell of fewer takes no longer than to wake threads


class Graph(NamedTuple):
    """The affinity, for kernels."""

    indptr: np.ndarray
    indices: np.ndarray
    data: np.ndarray


class Seats(NamedTuple):
    """Where every node is, and what it remembers."""

    batch_of: np.ndarray
    """[n]."""

    sizes: np.ndarray
    """[m]: nodes of each batch at the moment."""

    rival: np.ndarray
    """[n]: the batch that came second when the node last looked around; -1 has to look."""

    lead: np.ndarray
    """[n]: how much more affinity the node has at home than there, at least."""


def move_nodes(
    affinity: sp.csr_array,
    batches: Int64[np.ndarray, "m b"],
    num_rounds: int,
    progress: Progress = silent,
) -> Int64[np.ndarray, "m b"]:
    """Gather more affinity inside batches by moving single nodes.

    Args:
        affinity: symmetric [n, n] with sorted indices; negative entries keep nodes apart.
        batches: node ids, each once.
        num_rounds: rounds of rising prices; more rounds gather more.
        progress: told after each round.
    """
    if num_rounds == 0 or len(batches) < 2:
        return batches.copy()
    graph = Graph(affinity.indptr, affinity.indices, affinity.data)
    seats = _take_seats(batches)
    with thread_pool() as pool:
        for number in range(num_rounds):
            inside = affinity_inside(affinity, seats.batch_of, pool)
            inside = np.maximum(inside, 0)  # some are repelled
            inside = inside.mean(dtype=np.float64)
            for step in inside * rising_steps(batches.shape[1], number, num_rounds):
                sweep(graph, seats, np.float32(step), pool)
            progress("move", number + 1, num_rounds, "rounds")
    return mended(affinity, seats.batch_of.astype(np.int64), batches.shape[1])


def rising_steps(batch_size: int, number: int, num_rounds: int) -> Float64[np.ndarray, "s"]:
    """Steps of a round, in units of the affinity that a node has inside.

    The least is 1 / B: what everybody gains when one more joins the batch. The first round begins there, the last one
    halfway, in ratio, to the end.
    """
    least, most = 1 / batch_size, max(_LAST_STEP[0], _LAST_STEP[1] / batch_size)
    way = number / max(1, num_rounds - 1) / 2
    return np.geomspace(least * (most / least) ** way, most, SWEEPS_PER_ROUND)


def sweep(graph: Graph, seats: Seats, step: np.float32, pool: ThreadPoolExecutor | None) -> int:
    """Let every node look around once, if it has to, and move; returns the number of moves."""
    num_moves = 0
    for turn in range(_NUM_TURNS):
        wishes = np.empty(len(range(turn, len(seats.batch_of), _NUM_TURNS)), np.int32)

        def look(start: int, stop: int, turn: int = turn, wishes: np.ndarray = wishes) -> None:
            _look_around(graph, seats, step, turn, wishes, start, stop)

        def tell(start: int, stop: int, turn: int = turn, wishes: np.ndarray = wishes) -> None:
            _tell_neighbors(graph, seats, turn, wishes, start, stop)

        in_ranges(look, len(wishes), pool)
        moved = _fulfil(graph, seats, step, turn, wishes)
        if moved:
            in_ranges(tell, len(seats.batch_of), pool if moved > _MANY_MOVES else None)
        num_moves += moved
    return num_moves


def _take_seats(batches: Int64[np.ndarray, "m b"]) -> Seats:
    num_batches, batch_size = batches.shape
    batch_of = batch_of_each(batches, batches.size, np.int32)
    rival = np.full(batches.size, -1, np.int32)
    return Seats(
        batch_of, np.full(num_batches, batch_size), rival, np.zeros(batches.size, np.float32)
    )


@numba.njit(nogil=True, cache=True)
def _look_around(graph, seats, step, turn, wishes, start, stop):
    """wishes[w] = the batch to which the turn's node w would move; -1 where it stays."""
    batch_of, sizes, rival, lead = seats
    affinity_to = np.zeros(len(sizes), np.float32)  # of the node at hand; cleared after use
    for wish in range(start, stop):
        node = turn + wish * _NUM_TURNS
        wishes[wish] = -1
        home, second = batch_of[node], rival[node]
        if second >= 0 and lead[node] >= step * np.float32(sizes[home] - 1 - sizes[second]):
            continue
        for entry in range(graph.indptr[node], graph.indptr[node + 1]):
            affinity_to[batch_of[graph.indices[entry]]] += graph.data[entry]
        inside = affinity_to[home]
        affinity_to[home] = 0
        best, best_affinity, best_value = -1, np.float32(0), np.float32(-np.inf)
        for entry in range(graph.indptr[node], graph.indptr[node + 1]):
            batch = batch_of[graph.indices[entry]]
            if affinity_to[batch] > 0:
                value = affinity_to[batch] - step * np.float32(sizes[batch])
                if value > best_value:
                    best, best_affinity, best_value = batch, affinity_to[batch], value
            affinity_to[batch] = 0
        rival[node], lead[node] = best, inside - best_affinity
        if best_value > inside - step * np.float32(sizes[home] - 1) + _LEAST_GAIN:
            wishes[wish] = best


@numba.njit(nogil=True, cache=True)
def _fulfil(graph, seats, step, turn, wishes):
    """Make the moves of a turn one after the other, where they still gain; returns how many.

    Afterwards wishes[w] is the batch that the turn's node w has left; -1 where it has stayed.
    """
    batch_of, sizes, rival, _ = seats
    num_moves = 0
    for wish in range(len(wishes)):
        away = wishes[wish]
        if away < 0:
            continue
        wishes[wish] = -1
        node = turn + wish * _NUM_TURNS
        home = batch_of[node]
        gain = step * np.float32(sizes[home] - 1 - sizes[away])
        for entry in range(graph.indptr[node], graph.indptr[node + 1]):
            batch = batch_of[graph.indices[entry]]
            if batch == away:
                gain += graph.data[entry]
            elif batch == home:
                gain -= graph.data[entry]
        if gain > _LEAST_GAIN:
            batch_of[node], rival[node], wishes[wish] = away, -1, home
            sizes[home] -= 1
            sizes[away] += 1
            num_moves += 1
    return num_moves


@numba.njit(nogil=True, cache=True)
def _tell_neighbors(graph, seats, turn, left, start, stop):
    """Lower the leads of nodes start .. stop - 1 by as much as the moves of a turn may have cost them.

    left: as `_fulfil` leaves it. Every lead is lowered in the order of the moves, whoever does it; of a node that has
    moved itself it does not matter, as that one looks again.
    """
    for wish in range(len(left)):
        home, node = left[wish], turn + wish * _NUM_TURNS
        if home < 0:
            continue
        away, first, last = seats.batch_of[node], graph.indptr[node], graph.indptr[node + 1]
        for entry in range(first + np.searchsorted(graph.indices[first:last], start), last):
            neighbor, weight = graph.indices[entry], graph.data[entry]
            if neighbor >= stop:
                break
            batch = seats.batch_of[neighbor]
            if batch == home:
                seats.lead[neighbor] -= weight
            elif batch == away:
                seats.lead[neighbor] += weight
            seats.lead[neighbor] -= abs(weight)  # the rival may be the one that gained or lost it
