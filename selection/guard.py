"""Keeps apart what must not share a batch, whichever strategy formed the batches and whatever it knew.

Nodes are seated one by one, each in the batch that it was given, unless a rival sits there already. Who is turned away
trades places with a node of another batch such that both may sit where they come; batches of near numbers are tried
first, as strategies number related batches near each other. Where no trade is possible, whole batches are dissolved,
those with most holes first, and their nodes fill the holes of the others. So all batches that remain are full, and who
is in none is left over for the next round.

Whether a content is in a batch is one look at a table of counters. Two questions may share a counter, and then a batch
may look taken when it is not, which only costs a better place: no answer lets rivals meet, and batches without rivals
are left as they are.

Time: O(n + links) to seat, then for each node that is turned away O(batches tried + places tried), nearly always one
batch and one place. At worst, where hardly anything fits, O(nodes turned away * m * b).
Memory: 16 bytes per node, and 64 to 128 more per node that shares a content.

Legend: n nodes, m batches, b batch size, e links, c counters, s batches looked at.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numba
import numpy as np
from jaxtyping import Int16, Int32, Int64

from selection.forbidden import Forbidden

_COUNTERS_PER_CONTENT = 32  # so that at most one look in 32 is mistaken
_LEAST_COUNTERS = 1 << 16
_BATCHES_NEAR = 8  # tried first, in each direction
_BATCHES_TRIED = 2048  # after those
_BATCHES_SEARCHED = 64  # of all these, where the node fits and nobody is to trade with
_WORTHWHILE = 0.9  # one more round of trades, when the last one left at most this share waiting


@dataclass(frozen=True)
class Separated:
    """Batches in which nobody meets a rival."""

    batches: Int64[np.ndarray, "m b"]

    num_moved: int
    """Nodes that are in another batch than they were given."""


class _Room(NamedTuple):
    """Who sits where; a tuple, which numba understands."""

    members: Int64[np.ndarray, "m b"]
    """The node that owns each place, also when it may not sit there yet; -1 is a place without owner."""

    batch_of: Int64[np.ndarray, "n"]
    """The batch where each node sits; -1 is none."""

    contents: Int32[np.ndarray, "n 2"]
    link_starts: Int32[np.ndarray, "n+1"]
    link_ids: Int32[np.ndarray, "e"]
    """Whom a node must not meet, see `selection.forbidden.Forbidden`."""

    counters: Int16[np.ndarray, "c"]
    """How many nodes with a content are in a batch, for all contents and batches; c is a power of two."""


def separate(
    batches: Int64[np.ndarray, "m b"],
    forbidden: Forbidden,
    previous_leftover: Int64[np.ndarray, "r"],
) -> Separated:
    """Move nodes until no two in a batch are forbidden to meet.

    Args:
        batches: node ids, each at most once.
        forbidden: who must not meet.
        previous_leftover: nodes that were left over before; where places run out, others make room for them.

    Returns:
        Full batches, in their order; fewer than before, or none, where places run out.
    """
    if forbidden.is_empty or not batches.size:
        return Separated(batches, 0)
    room = _enter(batches, forbidden)
    offsets = _search_order(len(batches))
    places = _seat(room)
    num_before = np.inf
    while len(places) < _WORTHWHILE * num_before:  # one trade may make another possible
        num_before = len(places)
        _trade_places(room, places, offsets)
        places = places[room.batch_of[room.members.ravel()[places]] < 0]
    kept = _fill_batches(room, places)
    _make_room(room, np.intersect1d(previous_leftover, batches))
    before = np.repeat(np.arange(len(batches)), batches.shape[1])
    after = room.batch_of[batches.ravel()]
    return Separated(room.members[kept], int(((after >= 0) & (after != before)).sum()))


def _enter(batches: Int64[np.ndarray, "m b"], forbidden: Forbidden) -> _Room:
    """A room in which everybody owns a place and nobody sits yet."""
    num_nodes = len(forbidden.contents)
    num_entries = int((forbidden.contents >= 0).sum())
    num_counters = max(_LEAST_COUNTERS, _COUNTERS_PER_CONTENT * num_entries)
    return _Room(
        members=batches.astype(np.int64),
        batch_of=np.full(num_nodes, -1, np.int64),
        contents=forbidden.contents,
        link_starts=forbidden.links.indptr,
        link_ids=forbidden.links.indices,
        counters=np.zeros(1 << (num_counters - 1).bit_length(), np.int16),
    )


def _search_order(num_batches: int) -> Int64[np.ndarray, "s"]:
    """How far from its own a node looks at other batches: at the nearest first, then all over the place.

    Not at ever farther ones, because batches that hold the same contents may be in a row.
    """
    near = np.arange(1, min(_BATCHES_NEAR + 1, num_batches))
    everywhere = np.random.default_rng(0).permutation(num_batches)[:_BATCHES_TRIED]
    return np.concatenate([[0], np.stack([near, -near], axis=1).ravel(), everywhere])


@numba.njit(cache=True)
def _counter(room, batch, content):
    """Where the nodes with a content in a batch are counted."""
    key = np.uint64(batch) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(content)
    key = (key ^ (key >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    return (key ^ (key >> np.uint64(32))) & np.uint64(len(room.counters) - 1)


@numba.njit(cache=True)
def _fits(room, node, batch):
    """Whether no rival of the node is in the batch."""
    for content in room.contents[node]:
        if content >= 0 and room.counters[_counter(room, batch, content)]:
            return False
    return not _is_linked(room, node, batch)


@numba.njit(cache=True)
def _is_linked(room, node, batch):
    for entry in range(room.link_starts[node], room.link_starts[node + 1]):
        if room.batch_of[room.link_ids[entry]] == batch:
            return True
    return False


@numba.njit(cache=True)
def _put(room, node, batch, slot):
    room.members[batch, slot] = node
    room.batch_of[node] = batch
    for content in room.contents[node]:
        if content >= 0:
            room.counters[_counter(room, batch, content)] += 1


@numba.njit(cache=True)
def _take(room, node):
    batch = room.batch_of[node]
    room.batch_of[node] = -1
    for content in room.contents[node]:
        if content >= 0:
            room.counters[_counter(room, batch, content)] -= 1


@numba.njit(cache=True)
def _seat(room):
    """Seat the owners who meet no rival in their batch; returns the places of the others, counted over all batches."""
    num_batches, size = room.members.shape
    last_batch = np.full(
        room.contents.max() + 1, -1
    )  # of each content; exact, where a counter may be mistaken
    places = np.empty(room.members.size, np.int64)
    count = 0
    for batch in range(num_batches):
        for slot in range(size):
            node = room.members[batch, slot]
            is_turned_away = _is_linked(room, node, batch)
            for content in room.contents[node]:
                is_turned_away |= content >= 0 and last_batch[content] == batch
            if is_turned_away:
                places[count] = batch * size + slot
                count += 1
                continue
            _put(room, node, batch, slot)
            for content in room.contents[node]:
                if content >= 0:
                    last_batch[content] = batch
    return places[:count]


@numba.njit(cache=True)
def _trade_places(room, places, offsets):
    """Let the owners of places where they may not sit trade them; some may find nobody."""
    for place in places:
        home, slot = divmod(place, room.members.shape[1])
        if room.batch_of[room.members[home, slot]] < 0:  # else another's trade has seated it
            _trade_place(room, home, slot, offsets)


@numba.njit(cache=True)
def _trade_place(room, home, slot, offsets):
    """Seat the owner of a place in the first batch where it fits and somebody is who fits into its own place."""
    node = room.members[home, slot]
    num_searched = 0
    for offset in offsets:
        away = (home + offset) % len(room.members)
        if not _fits(room, node, away):
            continue
        if away == home:  # its rival has left
            _put(room, node, home, slot)
            return
        num_searched += 1
        if _swap(room, home, slot, away) or num_searched == _BATCHES_SEARCHED:
            return


@numba.njit(cache=True)
def _swap(room, home, slot, away):
    """Trade the place (home, slot) for the next in `away` whose owner, seated or not, fits into `home`."""
    node = room.members[home, slot]
    size = room.members.shape[1]
    for step in range(size):
        place = (slot + step) % size  # from slot 0 on, all would look at the same few first
        other = room.members[away, place]
        if _fits(room, other, home):
            if room.batch_of[other] >= 0:
                _take(room, other)
            _put(room, other, home, slot)
            _put(room, node, away, place)
            return True
    return False


@numba.njit(cache=True)
def _fill_batches(room, places):
    """Fill places by dissolving batches; returns which batches are kept.

    First the nodes that wait for a place are offered those of others, then the nodes of each dissolved batch. Nobody is
    offered the same batch twice: it only becomes fuller.
    """
    num_batches, size = room.members.shape
    num_holes = np.zeros(num_batches, np.int64)
    waiting = room.members.ravel()[places]
    for place in places:
        room.members[place // size, place % size] = -1
        num_holes[place // size] += 1
    _fill_holes(room, waiting, num_holes)
    kept = np.ones(num_batches, np.bool_)
    worst = num_holes.argmax()
    while num_holes[worst]:
        freed = room.members[worst][room.members[worst] >= 0]
        for node in freed:
            _take(room, node)
        room.members[worst] = -1
        num_holes[worst] = 0
        kept[worst] = False
        _fill_holes(room, freed, num_holes)
        worst = num_holes.argmax()
    return kept


@numba.njit(cache=True)
def _fill_holes(room, nodes, num_holes):
    """Seat each node in the first batch with a hole where it fits, if there is one."""
    for node in nodes:
        for batch in range(len(num_holes)):
            if num_holes[batch] and _fits(room, node, batch):
                _put(room, node, batch, room.members[batch].argmin())
                num_holes[batch] -= 1
                break


@numba.njit(cache=True)
def _make_room(room, first):
    """Seat those of `first` that have no place, instead of somebody who is not of them."""
    is_first = np.zeros(len(room.batch_of), np.bool_)
    is_first[first] = True
    for node in first:
        if room.batch_of[node] < 0:
            _take_a_place(room, node, is_first)


@numba.njit(cache=True)
def _take_a_place(room, node, is_first):
    """Seat a node where it fits and somebody sits who is not first."""
    for batch in range(len(room.members)):
        for slot in range(room.members.shape[1]):
            other = room.members[batch, slot]
            if other < 0 or is_first[other]:
                continue
            _take(room, other)
            if _fits(room, node, batch):
                _put(room, node, batch, slot)
                return
            _put(room, other, batch, slot)
