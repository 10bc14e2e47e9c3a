"""The points that are most similar to some queries, by comparing those with everything.

The products are numpy's: for a few hundred queries they take a fifth of the time of those inside FAISS's wheels
(benchmarks/NOTES.md).

Legend: q queries, n points, d dimensions, k that are kept.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int64

_BLOCK = 4096  # points


class Closest(NamedTuple):
    """The most similar of each query, best first; -1 where there are fewer."""

    similarities: Float32[np.ndarray, "q k"]
    ids: Int64[np.ndarray, "q k"]


def closest(
    queries: Float32[np.ndarray, "q d"],
    points: Float32[np.ndarray, "n d"],
    count: int,
    pool: ThreadPoolExecutor | None = None,
) -> Closest:
    """Compare with all points, of which there is one at least; ids are their numbers.

    Args:
        queries: any rows.
        points: any rows.
        count: k, or n where that is less.
        pool: threads, for which BLAS should have one; None takes this one.
    """

    def look(start: int) -> Closest:
        similarities = queries @ points[start : start + _BLOCK].T
        rest = max(0, similarities.shape[1] - count)
        places = np.argpartition(similarities, rest, axis=1)[:, rest:]
        return _in_order(np.take_along_axis(similarities, places, axis=1), start + places)

    starts = range(0, len(points), _BLOCK)
    found = pool.map(look, starts) if pool else map(look, starts)
    return reduce(lambda one, other: merge(one, other, count), found)


def merge(one: Closest, other: Closest, count: int) -> Closest:
    """The most similar of both, `count` at most."""
    both = (np.concatenate(parts, axis=1) for parts in zip(one, other, strict=True))
    return Closest(*(part[:, :count] for part in _in_order(*both)))


def _in_order(similarities: Float32[np.ndarray, "q k"], ids: Int64[np.ndarray, "q k"]) -> Closest:
    order = np.argsort(-similarities, axis=1, kind="stable")
    return Closest(
        np.take_along_axis(similarities, order, axis=1), np.take_along_axis(ids, order, axis=1)
    )
