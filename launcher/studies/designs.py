"""Which sets of batches the theory speaks of.

Legend: n pairs, m batches, b batch size.
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from jaxtyping import Int64

FANO_PLANE = (0, 1, 3), 7
"""Base block and number of points: 7 blocks of 3, every two points together in one. For `cyclic_design`."""

PLANE_OF_ORDER_3 = (0, 1, 3, 9), 13
"""The same with 13 blocks of 4."""


def full_batch(num_pairs: int) -> Int64[np.ndarray, "1 n"]:
    """One batch of everyone."""
    return np.arange(num_pairs)[None]


def all_batches(num_pairs: int, batch_size: int) -> Int64[np.ndarray, "m b"]:
    """All C(N, B), in lexicographic order."""
    return np.array(list(combinations(range(num_pairs), batch_size)))


def fixed_batches(num_pairs: int, batch_size: int) -> Int64[np.ndarray, "m b"]:
    """N / B disjoint ones."""
    return np.arange(num_pairs).reshape(-1, batch_size)


def cyclic_design(base_block: Sequence[int], num_pairs: int) -> Int64[np.ndarray, "n b"]:
    """The base block, shifted by 0 .. n-1 modulo n.

    When the base block is a difference set, each difference from 1 to n-1 occurring equally often in it, any two pairs
    meet equally often: the blocks are a balanced incomplete block design.
    """
    return (np.array(base_block) + np.arange(num_pairs)[:, None]) % num_pairs


def meetings(batches: Int64[np.ndarray, "m b"], num_pairs: int) -> Int64[np.ndarray, "n n"]:
    """How many batches any two pairs share."""
    member = np.zeros((len(batches), num_pairs), np.int64)
    np.put_along_axis(member, batches, 1, axis=1)
    counts = member.T @ member
    np.fill_diagonal(counts, 0)
    return counts
