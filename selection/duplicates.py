"""Pairs that share a content: told apart by 64-bit hashes, so that nothing is compared with everything.

When u_k and u_l are the same, v_l is as right an answer to u_k as v_k is, and a batch that holds both pairs teaches
the model that it is wrong. A content is what one side of a pair holds: the bytes of its part where the data set is at
hand, else its embedding, number for number. Both sides are looked up in one table, because (a, b) and (b, c) share b as
much as (a, b) and (c, b) do; sentence-transformers' `no_duplicates` sampler takes it that way, too.

Two different contents among n have the same hash with probability n^2 / 2^63: 0.001 for 10^8 pairs. The price would be
two pairs that never meet. Time is O(n log n), memory 16 bytes per pair and what one sort takes.

Legend: n pairs, d dimensions, b pairs of a block.
"""

import hashlib
from collections.abc import Sequence
from functools import partial

import numba
import numpy as np
from jaxtyping import Float32, Int32, Int64, UInt64

from selection.shard_index import Sample
from selection.threads import in_ranges, thread_pool

_HASH_BYTES = 8
_NOT_SHARED = -1
_MINUS_ZERO = np.uint32(1 << 31)


def hash_parts(samples: Sequence[Sample], parts: tuple[str, str]) -> UInt64[np.ndarray, "2 b"]:
    """Hash what both sides of samples hold.

    Args:
        samples: pairs as they are stored.
        parts: the members of a sample that become u and v.

    Returns:
        BLAKE2b-64 of the bytes, the same on every machine.
    """
    digests = b"".join(
        hashlib.blake2b(sample[part], digest_size=_HASH_BYTES).digest()
        for part in parts
        for sample in samples
    )
    return np.frombuffer(digests, "<u8").astype(np.uint64, copy=False).reshape(2, -1)


def hash_rows(
    U: Float32[np.ndarray, "n d"], V: Float32[np.ndarray, "n d"]
) -> UInt64[np.ndarray, "2 n"]:
    """Hash embeddings, for when nothing else is known of the pairs: rows are the same when all numbers are."""
    hashes = np.empty((2, len(U)), np.uint64)
    with thread_pool() as pool:
        in_ranges(partial(_hash_words, U.view(np.uint32), hashes[0]), len(U), pool)
        if V is U:
            hashes[1] = hashes[0]
        else:
            in_ranges(partial(_hash_words, V.view(np.uint32), hashes[1]), len(U), pool)
    return hashes


@numba.njit(nogil=True, cache=True)
def _hash_words(words, hashes, start, stop):
    """A hash of each row: every step is a bijection of 64 bits that spreads a difference over all of them."""
    for row in range(start, stop):
        state = np.uint64(0)
        for word in words[row]:
            if word == _MINUS_ZERO:  # equals 0 in other bits
                word = np.uint32(0)
            state = (state ^ np.uint64(word)) * np.uint64(0x9E3779B97F4A7C15)
            state ^= state >> np.uint64(32)
        hashes[row] = state


def no_contents(num_pairs: int) -> Int32[np.ndarray, "n 2"]:
    """What `number_contents` says when no pair shares anything."""
    return np.full((num_pairs, 2), _NOT_SHARED, np.int32)


def number_contents(hashes: UInt64[np.ndarray, "2 n"]) -> Int32[np.ndarray, "n 2"]:
    """Give a number to every content that more than one pair holds.

    Args:
        hashes: of the contents of both sides.

    Returns:
        The numbers of both sides of each pair, from 0; -1 for a content that no other pair holds. A pair that is the
        same on both sides has its number once, and -1 beside it.
    """
    _, ids = np.unique(hashes.T, return_inverse=True)
    ids = ids.reshape(-1, 2)
    counts = np.bincount(ids.ravel()) - np.bincount(
        ids[ids[:, 0] == ids[:, 1], 0], minlength=ids.max() + 1
    )
    shared = counts > 1
    numbers = np.where(shared, np.cumsum(shared) - 1, _NOT_SHARED).astype(np.int32)[ids]
    numbers[ids[:, 0] == ids[:, 1], 1] = _NOT_SHARED
    return numbers


def drop_surplus(
    nodes: Int64[np.ndarray, "n"], contents: Int32[np.ndarray, "all 2"], batch_size: int
) -> Int64[np.ndarray, "kept"]:
    """Leave out pairs that could only meet their like: m batches have room for m pairs of one content.

    Args:
        nodes: pairs, those that must not be left out first.
        contents: numbers of the contents of all pairs.
        batch_size: B.

    Returns:
        Those of `nodes` that stay, in their order; with one content per pair, no larger set makes more batches.
    """
    while True:
        fits = _rank_among_like(contents[nodes]) < len(nodes) // batch_size
        if fits.all():
            return nodes
        nodes = nodes[fits]


def _rank_among_like(contents: Int32[np.ndarray, "n 2"]) -> Int64[np.ndarray, "n"]:
    """How many earlier pairs hold the same content, the larger of both sides; -1 where nobody does."""
    ranks = np.full(contents.size, -1)
    entries = np.flatnonzero(contents >= 0)
    numbers = contents.ravel()[entries]
    order = np.argsort(numbers, kind="stable")
    numbers = numbers[order]
    ranks[entries[order]] = np.arange(len(numbers)) - np.searchsorted(numbers, numbers)
    return ranks.reshape(-1, 2).max(axis=1)
