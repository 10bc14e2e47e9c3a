"""Which batches meet to trade nodes, and when.

Every node would like to move to the batches to which it has most affinity. Each such wish makes its batch and the
other one meet. No batch is in two meetings of the same round, so the meetings of a round touch different nodes and
run in parallel, with the same result for any number of threads. Meetings with the most affinity come first.

Time: O(nnz + meetings * rounds / 64). Memory: 50 bytes per wish, and rounds / 8 bytes per batch.

Legend: n nodes, m batches, t tries, g meetings, w wishes, r rounds.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numba
import numpy as np
import scipy.sparse as sp
from jaxtyping import Float32, Int32, Int64

from selection.threads import in_ranges


@dataclass(frozen=True)
class Meetings:
    """Meetings in order of their rounds; meeting g has the wishes `first_wish[g] : first_wish[g + 1]`."""

    first_batch: Int64[np.ndarray, "g"]
    second_batch: Int64[np.ndarray, "g"]
    first_wish: Int64[np.ndarray, "g+1"]
    nodes: Int32[np.ndarray, "w"]
    """Who wishes to move to the other batch of the meeting."""

    round_starts: Int64[np.ndarray, "r+1"]
    """Round r has the meetings `round_starts[r] : round_starts[r + 1]`."""


def arrange_meetings(
    affinity: sp.csr_array,
    batch_of: Int64[np.ndarray, "n"],
    num_batches: int,
    num_tries: int,
    pool: ThreadPoolExecutor | None = None,
) -> Meetings:
    """Let every node wish for the `num_tries` other batches to which it has most affinity, and arrange the meetings.

    Args:
        affinity: symmetric [n, n].
        batch_of: the batch of each node.
        num_batches: m.
        num_tries: t.
        pool: threads; None takes this one.
    """
    nodes, pairs, strengths = _wishes(affinity, batch_of, num_batches, num_tries, pool)
    starts = np.flatnonzero(np.diff(pairs, prepend=-1))  # of the wishes of a meeting
    lengths = np.diff(starts, append=len(pairs))
    weights = np.add.reduceat(strengths, starts, dtype=np.float64)
    first, second = np.divmod(pairs[starts], num_batches)
    rounds = np.empty(len(starts), np.int64)
    _seat(np.argsort(-weights, kind="stable"), first, second, num_batches, rounds)
    order = np.argsort(rounds, kind="stable")
    first_wish = np.concatenate([[0], np.cumsum(lengths[order])])
    moved = np.repeat(starts[order] - first_wish[:-1], lengths[order])
    num_rounds = int(rounds.max(initial=-1)) + 1
    return Meetings(
        first[order],
        second[order],
        first_wish,
        nodes[moved + np.arange(len(nodes))],
        np.searchsorted(rounds[order], np.arange(num_rounds + 1)),
    )


def _wishes(
    affinity: sp.csr_array,
    batch_of: Int64[np.ndarray, "n"],
    num_batches: int,
    num_tries: int,
    pool: ThreadPoolExecutor | None,
) -> tuple[Int32[np.ndarray, "w"], Int64[np.ndarray, "w"], Float32[np.ndarray, "w"]]:
    """Who wishes, between which two batches as one number, and how much; those between the same two in one piece."""
    away, strengths = strongest_batches(affinity, batch_of, num_batches, num_tries, pool)
    is_wish = away >= 0
    away, strengths = away[is_wish], strengths[is_wish]
    nodes = np.repeat(np.arange(len(is_wish), dtype=np.int32), is_wish.sum(axis=1))
    home = batch_of[nodes]
    pairs = np.minimum(home, away)
    pairs *= num_batches
    pairs += np.maximum(home, away)
    order = np.argsort(pairs, kind="stable")
    return nodes[order], pairs[order], strengths[order]


def strongest_batches(
    affinity: sp.csr_array,
    batch_of: Int64[np.ndarray, "n"],
    num_batches: int,
    num_tries: int,
    pool: ThreadPoolExecutor | None,
) -> tuple[Int32[np.ndarray, "n t"], Float32[np.ndarray, "n t"]]:
    """Batches other than its own to which each node has most affinity, strongest first, and how much.

    -1 stands where there are fewer.
    """
    found = np.full((len(batch_of), num_tries), -1, np.int32)
    strengths = np.zeros((len(batch_of), num_tries), np.float32)

    def find(start: int, stop: int) -> None:
        _find_strongest(
            affinity.indptr, affinity.indices, affinity.data, batch_of, num_batches, found, strengths,
            start, stop,
        )  # fmt: skip

    in_ranges(find, len(batch_of), pool)
    return found, strengths


@numba.njit(nogil=True, cache=True)
def _find_strongest(indptr, indices, data, batch_of, num_batches, found, strengths, start, stop):
    total = np.zeros(num_batches, np.float32)  # of the node at hand; cleared after use
    for node in range(start, stop):
        for entry in range(indptr[node], indptr[node + 1]):
            total[batch_of[indices[entry]]] += data[entry]
        total[batch_of[node]] = 0
        for entry in range(indptr[node], indptr[node + 1]):
            batch = batch_of[indices[entry]]
            _insert(found[node], strengths[node], batch, total[batch])
            total[batch] = 0


@numba.njit(nogil=True, cache=True)
def _insert(found, strengths, batch, strength):
    """Keep the strongest in descending order."""
    place = len(found)
    while place > 0 and strength > strengths[place - 1]:
        place -= 1
    if place == len(found):
        return
    for other in range(len(found) - 1, place, -1):
        found[other], strengths[other] = found[other - 1], strengths[other - 1]
    found[place], strengths[place] = batch, strength


@numba.njit(nogil=True, cache=True)
def _seat(order, first, second, num_batches, rounds):
    """Give each meeting, in `order`, the first round in which both of its batches are free."""
    counts = np.zeros(num_batches, np.int64)
    for meeting in order:
        counts[first[meeting]] += 1
        counts[second[meeting]] += 1
    num_words = 1 + 2 * counts.max() // 64 if len(counts) else 1
    busy = np.zeros((num_batches, num_words), np.uint64)  # a bit per round
    for meeting in order:
        a, b = busy[first[meeting]], busy[second[meeting]]
        for word in range(num_words):
            taken = a[word] | b[word]
            if taken != np.uint64(0xFFFFFFFFFFFFFFFF):
                bit = np.uint64(0)
                while taken & np.uint64(1):
                    taken >>= np.uint64(1)
                    bit += np.uint64(1)
                a[word] |= np.uint64(1) << bit
                b[word] |= np.uint64(1) << bit
                rounds[meeting] = 64 * word + np.int64(bit)
                break
