"""Cells: points around centroids, so that a search looks at those near a query only; an inverted file.

A query looks into the cells whose centroid is nearly as similar to it as the best one is. How nearly is read off a
sample whose true neighbours are known (`nearness_for`), so there is one search and no trying.

The centroids come from a few steps of k-means on a sample, O(c^2 d); giving every point its cell and finding the cells
of every query is O(n c d). The products are numpy's, which take half the time of those of FAISS on a processor that
is newer than the BLAS inside its wheels.

Legend: n points, d dimensions, c cells, q queries, k neighbours, e visits.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numba
import numpy as np
import scipy.sparse as sp
from jaxtyping import Float32, Int32, Int64

from selection.threads import in_ranges

_POINTS_PER_CENTROID = 16
_KMEANS_STEPS = 3
_BLOCK = 512
_VISITING_BLOCK = 64  # queries whose similarities stay in the cache


class Cells(NamedTuple):
    """Points by the centroid to which they are most similar."""

    centroids: Float32[np.ndarray, "c d"]
    """Minus their mean, which moves no centroid nearer to a query than another one."""

    owner: Int32[np.ndarray, "n"]
    """The cell of each point."""

    members: Int32[np.ndarray, "n"]
    """Points, cell by cell."""

    starts: Int64[np.ndarray, "c+1"]
    """Cell i has the members `starts[i] : starts[i + 1]`."""


def divide(
    points: Float32[np.ndarray, "n d"],
    num_cells: int,
    rng: np.random.Generator,
    pool: ThreadPoolExecutor,
) -> Cells:
    """Spherical k-means.

    Args:
        points: unit rows.
        num_cells: c, at most n.
        rng: draws the sample.
        pool: threads; BLAS should have one.
    """
    sample = points[rng.permutation(len(points))[: _POINTS_PER_CENTROID * num_cells]]
    centroids = sample[:num_cells]
    for _ in range(_KMEANS_STEPS):
        owner = _most_similar(sample, centroids, pool)
        one_hot = sp.csr_array(
            (np.ones(len(sample), np.float32), (owner, np.arange(len(sample)))),
            shape=(num_cells, len(sample)),
        )
        sums = one_hot @ sample
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        centroids = np.divide(sums, norms, out=centroids.copy(), where=norms > 0)
    owner = _most_similar(points, centroids, pool)
    return Cells(
        centroids - centroids.mean(axis=0),
        owner,
        np.argsort(owner, kind="stable").astype(np.int32),
        np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=num_cells))]),
    )


def _most_similar(
    points: Float32[np.ndarray, "n d"],
    centroids: Float32[np.ndarray, "c d"],
    pool: ThreadPoolExecutor,
) -> Int32[np.ndarray, "n"]:
    owner = np.empty(len(points), np.int32)

    def find(first: int, last: int) -> None:
        for start in range(first * _BLOCK, last * _BLOCK, _BLOCK):
            rows = slice(start, start + _BLOCK)  # the same products for any number of threads
            owner[rows] = (points[rows] @ centroids.T).argmax(axis=1)

    in_ranges(find, -(-len(points) // _BLOCK), pool)
    return owner


def visits(
    queries: Float32[np.ndarray, "q d"], cells: Cells, nearness: float
) -> tuple[Int32[np.ndarray, "e"], Int64[np.ndarray, "c+1"]]:
    """Which queries look into each cell: those to which it is at least `nearness` times as similar as the best one.

    The best one is always among them.

    Returns:
        Numbers of queries, cell by cell, and where those of each cell start.
    """
    near, ends = [np.empty(0, np.int32)], [np.zeros(1, np.int64)]
    for start in range(0, len(queries), _VISITING_BLOCK):
        similarities = queries[start : start + _VISITING_BLOCK] @ cells.centroids.T
        best = similarities.max(axis=1)
        # not above the best where that is negative
        own, own_ends = _at_least(similarities, np.minimum(nearness * best, best))
        near.append(own)
        ends.append(own_ends + ends[-1][-1])
    cells_of, bounds = np.concatenate(near), np.concatenate(ends)
    by_query = sp.csr_array(
        (np.ones(len(cells_of), np.int8), cells_of, bounds.astype(np.int32)),
        shape=(len(queries), len(cells.centroids)),
    )
    by_cell = by_query.tocsc()
    return by_cell.indices, by_cell.indptr.astype(np.int64)


@numba.njit(nogil=True, cache=True)
def _at_least(similarities, least):
    """Columns of each row with at least so much, one row after another, and where those of each row end."""
    near, ends = np.empty(similarities.size + 1, np.int32), np.empty(len(similarities), np.int64)
    count = 0
    for row in range(len(similarities)):
        for column in range(similarities.shape[1]):
            near[count] = column
            count += similarities[row, column] >= least[row]  # without a branch
        ends[row] = count
    return near[:count].copy(), ends


def nearness_for(
    min_recall: float,
    sample: Int64[np.ndarray, "q"],
    truth: Int32[np.ndarray, "q k"],
    queries: Float32[np.ndarray, "n d"],
    base: Float32[np.ndarray, "n d"],
    query_cells: Cells,
    base_cells: Cells,
) -> float:
    """The largest `nearness` with which enough of the true neighbours are met.

    A query and its neighbour meet when either looks into the cell of the other.

    Args:
        min_recall: share of the true neighbours that must be met.
        sample: numbers of some queries.
        truth: their neighbours.
        queries: all queries.
        base: what they are searched in.
        query_cells: cells of the queries.
        base_cells: cells of the base.
    """
    ahead = _relative(queries[sample] @ base_cells.centroids.T)
    ahead = np.take_along_axis(ahead, base_cells.owner[truth], axis=1).ravel()
    back = np.empty_like(ahead)
    for start in range(0, len(back), _BLOCK):
        rows = slice(start, start + _BLOCK)
        similarities = _relative(base[truth.ravel()[rows]] @ query_cells.centroids.T)
        own = np.repeat(query_cells.owner[sample], truth.shape[1])[rows]
        back[rows] = similarities[np.arange(len(own)), own]
    # the allowance is for sums that come out a little different in blocks of another size
    return float(np.quantile(np.maximum(ahead, back), 1 - min_recall, method="lower")) - 1e-5


def _relative(similarities: Float32[np.ndarray, "q c"]) -> Float32[np.ndarray, "q c"]:
    """Relative to the best of each row; all alike where even that is 0."""
    best = similarities.max(axis=1, keepdims=True)
    return np.divide(similarities, best, out=np.ones_like(similarities), where=best > 0)
