"""Nearest neighbours of all pairs among all pairs, both directions at once.

U looks into the nearest cells of V, then V into those of U (`selection/visits.py`). Every similarity u_k.v_l that is
computed on the way counts twice: v_l may be among the nearest of u_k, and u_k among those of v_l. So k and l are missed
only when neither looks into the cell of the other, and half to a tenth of the cells are enough that two searches need
which know nothing of each other. As all queries are there from the beginning, those of one cell make one matrix
product, where FAISS answers each query by itself (figures in benchmarks/NOTES.md).

A block of queries and a group of cells are one task. Tasks are held like a round robin: in every turn each block meets
another group, so no two tasks touch the same list, and the result does not depend on the number of threads.

Time: O(n^2 d) times the share of the cells that is looked into, and at most O(n c d) to find those. Memory: 8 bytes per
neighbour.

Legend: n pairs, d dimensions, k neighbours, c cells, g groups, b queries of a block, e visits.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numba
import numpy as np
import scipy.linalg.cython_blas  # noqa: F401  Numba's np.dot loads it, but `one_blas_thread` limits only what is there
from jaxtyping import Float32, Int32, Int64

from selection.cells import Cells, nearest_cells
from selection.threads import in_ranges
from selection.visits import Rule, visits

_NUM_GROUPS = 16  # of cells, and as many blocks of queries: most threads that have work
_BLOCK = 2048  # queries
_TILE = 256  # queries of one matrix product


class Nearest(NamedTuple):
    """The nearest found so far, in no order until `sort_nearest`; -1 where there are fewer than k."""

    ids: Int32[np.ndarray, "n k"]
    similarities: Float32[np.ndarray, "n k"]
    least: Float32[np.ndarray, "n"]
    """What a newcomer must exceed."""


class Looking(NamedTuple):
    """A block of queries, and the cells that they look into."""

    ids: Int32[np.ndarray, "b"]
    rows: Float32[np.ndarray, "b d"]
    visitors: Int32[np.ndarray, "e"]
    """Places in the block, cell by cell."""

    visit_starts: Int64[np.ndarray, "c+1"]
    """Cell i has the visitors `visit_starts[i] : visit_starts[i + 1]`."""


def nothing_found(num_pairs: int, k: int) -> Nearest:
    """Empty lists."""
    similarities = np.full((num_pairs, k), -np.inf, np.float32)
    return Nearest(np.full((num_pairs, k), -1, np.int32), similarities, similarities[:, 0].copy())


def look_into_cells(
    queries: Float32[np.ndarray, "n d"],
    base: Float32[np.ndarray, "n d"],
    query_cells: Cells,
    base_cells: Cells,
    rule: Rule,
    of_queries: Nearest,
    of_base: Nearest,
    pool: ThreadPoolExecutor,
    told: Callable[[int], None],
) -> None:
    """Let every query look into the cells that are near; both lists take what they find.

    Args:
        queries: one side of all pairs.
        base: the other side.
        query_cells: their cells; queries of one cell look into much the same ones, so they come together.
        base_cells: what is looked into.
        rule: which cells those are.
        of_queries: the lists of the queries.
        of_base: the lists of the base.
        pool: threads; BLAS should have one.
        told: how many queries are done.
    """
    step = _NUM_GROUPS * _BLOCK
    coarse, coarse_owner = query_cells.coarse
    near = nearest_cells(coarse, base_cells.centroids)[:, : rule.reach]
    order = np.lexsort((query_cells.owner, coarse_owner)).astype(np.int32)
    columns = base[base_cells.members]  # a copy in which every cell is in one piece
    groups = np.searchsorted(base_cells.starts, np.linspace(0, len(base), _NUM_GROUPS + 1))

    def look(ids: Int32[np.ndarray, "b"]) -> Looking:
        rows = queries[ids]
        return Looking(ids, rows, *visits(rows, coarse_owner[ids], near, base_cells, rule.nearness))

    def meet(block: Looking, group: int) -> None:
        cells = groups[group % _NUM_GROUPS], groups[group % _NUM_GROUPS + 1]
        _meet(block, base_cells.members, columns, base_cells.starts, *cells, of_queries, of_base)

    for start in range(0, len(queries), step):
        members = order[start : start + step]
        blocks = list(pool.map(look, np.split(members, range(_BLOCK, len(members), _BLOCK))))
        for turn in range(_NUM_GROUPS):
            list(pool.map(meet, blocks, range(turn, turn + len(blocks))))
        told(start + len(members))


@numba.njit(nogil=True, cache=True)
def _meet(block, members, columns, starts, first, last, mine, theirs):
    """A block of queries looks into cells first .. last - 1."""
    largest = 1
    for cell in range(first, last):
        largest = max(largest, starts[cell + 1] - starts[cell])
    rows = np.empty((_TILE, columns.shape[1]), np.float32)
    scratch = np.empty(_TILE * largest, np.float32)
    for cell in range(first, last):
        inside = members[starts[cell] : starts[cell + 1]]
        last_visit = block.visit_starts[cell + 1] if len(inside) else 0
        for start in range(block.visit_starts[cell], last_visit, _TILE):
            visitors = block.visitors[start : min(start + _TILE, last_visit)]
            for place in range(len(visitors)):
                for axis in range(rows.shape[1]):  # by hand: slices take twice the time
                    rows[place, axis] = block.rows[visitors[place], axis]
            tile = scratch[: len(visitors) * len(inside)].reshape(len(visitors), len(inside))
            np.dot(rows[: len(visitors)], columns[starts[cell] : starts[cell + 1]].T, tile)
            _take(block.ids[visitors], inside, tile, mine, theirs)


@numba.njit(nogil=True, cache=True)
def _take(visitors, inside, tile, mine, theirs):
    """Keep what is among the nearest of either side."""
    limits = theirs.least[inside]
    for row in range(len(visitors)):
        k, least = visitors[row], mine.least[visitors[row]]
        is_near = False
        for column in range(len(inside)):  # without a branch, so that it is done in vectors
            is_near |= (tile[row, column] > least) | (tile[row, column] > limits[column])
        if not is_near:
            continue
        for column in range(len(inside)):
            l, similarity = inside[column], tile[row, column]  # noqa: E741
            if similarity > mine.least[k] and k != l:
                _insert(mine, k, l, similarity)
            if similarity > limits[column] and k != l:
                _insert(theirs, l, k, similarity)
                limits[column] = theirs.least[l]


@numba.njit(nogil=True, cache=True)
def _insert(nearest, row, other, similarity):
    """Put `other` in place of the least similar, the root of a heap; two that look at each other meet twice."""
    ids, similarities = nearest.ids[row], nearest.similarities[row]
    is_there = False
    for place in range(len(ids)):
        is_there |= ids[place] == other
    if is_there:
        return
    place, child = 0, 1
    while child < len(ids):
        if child + 1 < len(ids) and similarities[child + 1] < similarities[child]:
            child += 1
        if similarities[child] >= similarity:
            break
        ids[place], similarities[place] = ids[child], similarities[child]
        place, child = child, 2 * child + 1
    ids[place], similarities[place] = other, similarity
    nearest.least[row] = similarities[0]


def sort_nearest(nearest: Nearest, pool: ThreadPoolExecutor) -> None:
    """Bring every list into order, most similar first, in place."""

    def sort(first: int, last: int) -> None:
        for start in range(first * _BLOCK, last * _BLOCK, _BLOCK):
            ids, similarities = (part[start : start + _BLOCK] for part in nearest[:2])
            order = np.argsort(-similarities, axis=1, kind="stable")
            ids[:] = np.take_along_axis(ids, order, axis=1)
            similarities[:] = np.take_along_axis(similarities, order, axis=1)

    in_ranges(sort, -(-len(nearest.ids) // _BLOCK), pool)
