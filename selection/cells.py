"""Cells: points around centroids, so that a search looks at those near a query only; an inverted file.

The centroids come from a few steps of k-means on a sample. So that no point has to be compared with all of them, a few
hundred coarse cells come first, and a point is compared with the centroids that are near its coarse one: with as many
as hold the most similar one for nearly all of a sample. Where data has structure, that is a tenth of the centroids of
10^6 points; where it has none, most of them.

The products are numpy's, which take half the time of those of FAISS on a processor that is newer than the BLAS inside
its wheels.

Legend: n points, d dimensions, c cells, g coarse cells, r candidates, s points of a sample.
"""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float32, Int32, Int64

_POINTS_PER_CENTROID = 16
_KMEANS_STEPS = 3
_COARSE_PER_ROOT = 4
_BLOCK = 512
_PROBE = 2048
"""Points that say how many centroids are near."""

_SHARE_HELD = 0.98
"""Of those points, the share whose most similar centroid must be a candidate: 0.97 to 0.998 cost about the same."""


class Coarse(NamedTuple):
    """Points by large cells."""

    centroids: Float32[np.ndarray, "g d"]
    owner: Int32[np.ndarray, "n"]
    """The coarse cell of each point."""


class Cells(NamedTuple):
    """Points by the centroid to which they are most similar, of those that are near their coarse one."""

    centroids: Float32[np.ndarray, "c d"]
    """Minus their mean, which moves no centroid nearer to a query than another one."""

    owner: Int32[np.ndarray, "n"]
    """The cell of each point."""

    members: Int32[np.ndarray, "n"]
    """Points, cell by cell."""

    starts: Int64[np.ndarray, "c+1"]
    """Cell i has the members `starts[i] : starts[i + 1]`."""

    coarse: Coarse


def divide(
    points: Float32[np.ndarray, "n d"],
    num_cells: int,
    rng: np.random.Generator,
    pool: ThreadPoolExecutor,
) -> Cells:
    """Spherical k-means, of coarse cells first.

    Args:
        points: unit rows.
        num_cells: c, at most n.
        rng: draws the sample.
        pool: threads; BLAS should have one.
    """
    order = rng.permutation(len(points))
    # what has formed the centroids is nearer to them than the rest, so others say how many are near
    ids, probe = order[: _POINTS_PER_CENTROID * num_cells], order[-_PROBE:]
    sample = points[ids]
    coarse = _divide_coarsely(points, sample, num_cells, pool)
    near = partial(_candidates, points, probe, coarse)
    centroids = _k_means(sample, num_cells, coarse.owner[ids], near, pool)
    owner = _most_similar(points, coarse.owner, near(centroids), centroids, pool)
    return Cells(centroids - centroids.mean(axis=0), owner, *by_owner(owner, num_cells), coarse)


def _divide_coarsely(
    points: Float32[np.ndarray, "n d"],
    sample: Float32[np.ndarray, "s d"],
    num_cells: int,
    pool: ThreadPoolExecutor,
) -> Coarse:
    """The same, with every centroid a candidate."""
    num_coarse = min(num_cells, int(_COARSE_PER_ROOT * math.sqrt(num_cells)))
    sample = sample[: _POINTS_PER_CENTROID * num_coarse]
    together, everyone = np.zeros(len(points), np.int32), np.arange(num_coarse)[None]
    of_sample = together[: len(sample)]
    centroids = _k_means(sample, num_coarse, of_sample, lambda _: everyone, pool)
    return Coarse(centroids, _most_similar(points, together, everyone, centroids, pool))


def _k_means(
    sample: Float32[np.ndarray, "s d"],
    count: int,
    coarse_owner: Int32[np.ndarray, "s"],
    candidates: Callable[[Float32[np.ndarray, "c d"]], Int32[np.ndarray, "g r"]],
    pool: ThreadPoolExecutor,
) -> Float32[np.ndarray, "c d"]:
    """Centroids of a sample, the first of which they start from; `candidates` says which are compared with whom."""
    centroids = sample[:count]
    for _ in range(_KMEANS_STEPS):
        owner = _most_similar(sample, coarse_owner, candidates(centroids), centroids, pool)
        centroids = _means(sample, owner, centroids)
    return centroids


def nearest_cells(
    coarse: Float32[np.ndarray, "g d"], centroids: Float32[np.ndarray, "c d"]
) -> Int32[np.ndarray, "g c"]:
    """Numbers of all centroids for each coarse one, most similar first."""
    return np.argsort(-(coarse @ centroids.T), axis=1, kind="stable").astype(np.int32)


def ranks(nearest: Int32[np.ndarray, "g c"]) -> Int32[np.ndarray, "g c"]:
    """Where each cell is in each order."""
    found = np.empty_like(nearest)
    np.put_along_axis(found, nearest, np.arange(nearest.shape[1], dtype=np.int32)[None], axis=1)
    return found


def by_owner(
    owner: Int32[np.ndarray, "n"], num_owners: int
) -> tuple[Int32[np.ndarray, "n"], Int64[np.ndarray, "c+1"]]:
    """Points, owner by owner, and where those of each start."""
    starts = np.cumsum(np.bincount(owner, minlength=num_owners))
    return np.argsort(owner, kind="stable").astype(np.int32), np.concatenate([[0], starts])


def _candidates(
    points: Float32[np.ndarray, "n d"],
    probe: Int64[np.ndarray, "s"],
    coarse: Coarse,
    centroids: Float32[np.ndarray, "c d"],
) -> Int32[np.ndarray, "g r"]:
    """The centroids near each coarse one, enough to hold the most similar one of nearly all points."""
    nearest = nearest_cells(coarse.centroids, centroids)
    best = (points[probe] @ centroids.T).argmax(axis=1)
    rank = ranks(nearest)[coarse.owner[probe], best]
    return nearest[:, : 1 + int(np.quantile(rank, _SHARE_HELD, method="higher"))]


def _most_similar(
    points: Float32[np.ndarray, "n d"],
    coarse_owner: Int32[np.ndarray, "n"],
    candidates: Int32[np.ndarray, "g r"],
    centroids: Float32[np.ndarray, "c d"],
    pool: ThreadPoolExecutor,
) -> Int32[np.ndarray, "n"]:
    """The most similar candidate of each point; the same products for any number of threads."""
    owner = np.empty(len(points), np.int32)

    def find(ids: Int32[np.ndarray, "b"]) -> None:
        near = candidates[coarse_owner[ids[0]]]
        owner[ids] = near[(points[ids] @ centroids[near].T).argmax(axis=1)]

    list(pool.map(find, _blocks(coarse_owner, len(candidates))))
    return owner


def _blocks(
    coarse_owner: Int32[np.ndarray, "n"], num_coarse: int
) -> Iterator[Int32[np.ndarray, "b"]]:
    """Points of one coarse cell at a time."""
    members, starts = by_owner(coarse_owner, num_coarse)
    for start, stop in pairwise(starts):
        for first in range(start, stop, _BLOCK):
            yield members[first : min(first + _BLOCK, stop)]


def _means(
    points: Float32[np.ndarray, "s d"],
    owner: Int32[np.ndarray, "s"],
    centroids: Float32[np.ndarray, "c d"],
) -> Float32[np.ndarray, "c d"]:
    """Unit means of the points of each centroid; one without points stays."""
    one_hot = sp.csr_array(
        (np.ones(len(points), np.float32), (owner, np.arange(len(points)))),
        shape=(len(centroids), len(points)),
    )
    sums = one_hot @ points
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    return np.divide(sums, norms, out=centroids.copy(), where=norms > 0)
