"""Which cells a query looks into: of those near its coarse one, all that are nearly as similar to it as the best is.

How many are near, and how nearly, is read off a sample whose true neighbours are known (`rule_for`), so there is one
search and no trying.

Legend: n pairs, d dimensions, c cells, g coarse cells, q queries, k neighbours, r cells within reach, e visits.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numba
import numpy as np
import scipy.sparse as sp
from jaxtyping import Float32, Int32, Int64

from selection.cells import Cells, nearest_cells, ranks

_BLOCK = 512
_VISITING_BLOCK = 64  # queries whose similarities stay in the cache
_MAX_HALVINGS = 5
_PRICE_OF_A_POINT = 6
"""What it costs to look at a point, when comparing a query with a centroid costs 1; where lists fill, it is more."""

_ROUNDING = 1e-5
"""Of sums in blocks of another size."""


class Rule(NamedTuple):
    """Which cells a query looks into."""

    reach: int
    """Cells it is compared with: as many as are nearest to its coarse one."""

    nearness: float
    """Of those, it looks into the ones to which it is at least so many times as similar as to the best."""


class Meetings(NamedTuple):
    """Where the true neighbours of some queries are, and what else would be looked at on the way."""

    relative: Float32[np.ndarray, "2 q k"]
    """Similarity of the query and the cell of its neighbour, then of the neighbour and the cell of the query.

    Relative to that of the best cell.
    """

    rank: Int32[np.ndarray, "2 q k"]
    """Place of that cell among those near the coarse cell of who looks."""

    relative_of_cells: Float32[np.ndarray, "q c"]
    rank_of_cells: Int32[np.ndarray, "q c"]
    cell_sizes: Float32[np.ndarray, "c"]

    def nearness(self, reach: int, min_recall: float) -> float:
        """The largest with which enough of them meet, which takes one that looks; -inf where none is small enough."""
        looked = np.where(self.rank < reach, self.relative, -np.inf).max(axis=0)
        return float(np.quantile(looked, 1 - min_recall, method="lower"))

    def points(self, rule: Rule) -> float:
        """How many points a query looks at."""
        looks = (self.relative_of_cells >= rule.nearness) & (self.rank_of_cells < rule.reach)
        return float((looks @ self.cell_sizes).mean())


def visits(
    queries: Float32[np.ndarray, "q d"],
    coarse_owner: Int32[np.ndarray, "q"],
    near: Int32[np.ndarray, "g r"],
    cells: Cells,
    nearness: float,
) -> tuple[Int32[np.ndarray, "e"], Int64[np.ndarray, "c+1"]]:
    """Who looks into each cell.

    Args:
        queries: those of one coarse cell one after another.
        coarse_owner: their coarse cells.
        near: the cells within reach of each coarse one.
        cells: what is looked into.
        nearness: see `Rule`; the best cell within reach always counts.

    Returns:
        Numbers of queries, cell by cell, and where those of each cell start.
    """
    found, ends = [np.empty(0, np.int32)], [np.zeros(1, np.int64)]
    for rows in _runs(coarse_owner):
        within = near[coarse_owner[rows.start]]
        similarities = queries[rows] @ cells.centroids[within].T
        best = similarities.max(axis=1)
        # not above the best where that is negative
        own, own_ends = _at_least(similarities, np.minimum(nearness * best, best))
        found.append(within[own])
        ends.append(own_ends + ends[-1][-1])
    cells_of, bounds = np.concatenate(found), np.concatenate(ends)
    by_query = sp.csr_array(
        (np.ones(len(cells_of), np.int8), cells_of, bounds.astype(np.int32)),
        shape=(len(queries), len(cells.centroids)),
    )
    by_cell = by_query.tocsc()
    return by_cell.indices, by_cell.indptr.astype(np.int64)


def _runs(coarse_owner: Int32[np.ndarray, "q"]) -> Iterator[slice]:
    """Rows of one coarse cell, few at a time."""
    bounds = np.flatnonzero(np.diff(coarse_owner, prepend=-1, append=-1))
    for first, last in pairwise(bounds):
        for start in range(first, last, _VISITING_BLOCK):
            yield slice(start, min(start + _VISITING_BLOCK, last))


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


def rule_for(min_recall: float, meetings: Sequence[Meetings]) -> Rule:
    """The cheapest rule with which enough of the true neighbours meet, in every one of the samples.

    A shorter reach saves comparisons with centroids, and has to look into more of the cells that are left.
    """
    num_cells = len(meetings[0].cell_sizes)
    best_cost, best = np.inf, Rule(num_cells, -1.0)
    for halvings in range(_MAX_HALVINGS + 1):
        reach = -(-num_cells // 2**halvings)
        nearness = min(each.nearness(reach, min_recall) for each in meetings)
        if nearness == -np.inf:
            break
        rule = Rule(reach, nearness - _ROUNDING)
        points = float(np.mean([each.points(rule) for each in meetings]))
        cost = reach + _PRICE_OF_A_POINT * points
        if cost < best_cost:
            best_cost, best = cost, rule
    return best


def find_meetings(
    sample: Int64[np.ndarray, "q"],
    truth: Int32[np.ndarray, "q k"],
    queries: Float32[np.ndarray, "n d"],
    base: Float32[np.ndarray, "n d"],
    query_cells: Cells,
    base_cells: Cells,
) -> Meetings:
    """A query and its neighbour meet when either looks into the cell of the other.

    Args:
        sample: numbers of some queries.
        truth: their neighbours.
        queries: all queries.
        base: what they are searched in.
        query_cells: cells of the queries.
        base_cells: cells of the base.
    """
    own, others = query_cells.owner[sample], base_cells.owner[truth]
    relative_of_cells = _relative(queries[sample] @ base_cells.centroids.T)
    rank_of_cells = _ranks_from(query_cells, base_cells)[query_cells.coarse.owner[sample]]
    back = np.empty(truth.size, np.float32)
    for start in range(0, truth.size, _BLOCK):
        rows = slice(start, start + _BLOCK)
        similarities = _relative(base[truth.ravel()[rows]] @ query_cells.centroids.T)
        back[rows] = similarities[
            np.arange(len(similarities)), np.repeat(own, truth.shape[1])[rows]
        ]
    rank_back = _ranks_from(base_cells, query_cells)[base_cells.coarse.owner[truth], own[:, None]]
    return Meetings(
        np.stack(
            [np.take_along_axis(relative_of_cells, others, axis=1), back.reshape(truth.shape)]
        ),
        np.stack([np.take_along_axis(rank_of_cells, others, axis=1), rank_back]),
        relative_of_cells,
        rank_of_cells,
        np.diff(base_cells.starts).astype(np.float32),
    )


def _ranks_from(cells: Cells, others: Cells) -> Int32[np.ndarray, "g c"]:
    return ranks(nearest_cells(cells.coarse.centroids, others.centroids))


def _relative(similarities: Float32[np.ndarray, "q c"]) -> Float32[np.ndarray, "q c"]:
    """Relative to the best of each row; all alike where even that is 0."""
    best = similarities.max(axis=1, keepdims=True)
    return np.divide(similarities, best, out=np.ones_like(similarities), where=best > 0)
