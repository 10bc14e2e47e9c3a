"""The K nearest neighbours in both directions: V of each u, and U of each v, without the pair itself.

`flat` compares everything with everything, exactly, by FAISS, in O(N^2 d); `ivf` looks into the nearest of 8 sqrt(N)
cells only (`selection/cells.py`, `selection/join.py`), into as many as it takes for the recall that is asked for, as a
sample of queries shows (`selection/visits.py`). Recall is always measured, because an approximate search can fail
silently.

Legend: n pairs, d dimensions, k neighbours.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate

import faiss
import numpy as np
from jaxtyping import Float32, Int32, Int64

from selection.cells import divide
from selection.config import GraphConfig
from selection.exact import closest
from selection.join import Nearest, look_into_cells, nothing_found, sort_nearest
from selection.progress import Progress, silent
from selection.threads import one_blas_thread, thread_pool
from selection.visits import find_meetings, rule_for

MAX_FLAT_PAIRS = 4_000
_QUERY_BLOCK = 2048
_RECALL_SAMPLE = 512
CELLS_PER_ROOT = 8
_ROUNDING = 1e-5  # of a similarity that is summed in another order


@dataclass(frozen=True)
class Neighbors:
    """Ids of the nearest neighbours in both directions, nearest first; -1 where there are fewer than k."""

    v_of_u: Int32[np.ndarray, "n k"]
    u_of_v: Int32[np.ndarray, "n k"]
    recall: float
    """Share of the true neighbours that were found, on the sample of queries that also said how far to look."""

    index: str = "flat"
    """How they were searched: `flat` or `ivf`."""

    num_recall_queries: int = 0
    """Size of that sample; 0 for `flat`, whose recall is 1 by definition."""

    first_rank: int = 0
    mutual: bool = False
    """Which of them are linked, as in `GraphConfig`; see `selection.affinity.linked`."""


def find_neighbors(
    U: Float32[np.ndarray, "n d"],
    V: Float32[np.ndarray, "n d"],
    config: GraphConfig,
    seed: int = 0,
    progress: Progress = silent,
) -> Neighbors:
    """Find the neighbours of every pair, by inner product: K, and those before the first that is linked.

    Args:
        U: first embeddings, on the unit sphere, C-contiguous.
        V: second embeddings.
        config: K, the first rank that is linked, index and the recall to reach.
        seed: of the sample and of the cells.
        progress: told after each block of queries.
    """
    k = min(config.first_rank + config.num_neighbors, len(U) - 1)
    if config.index == "flat" or not k or (config.index == "auto" and len(U) <= MAX_FLAT_PAIRS):
        found = _search_all(U, V, k, progress)
    else:
        found = _search_cells(U, V, k, config.min_recall, seed, progress)
    return replace(found, first_rank=config.first_rank, mutual=config.mutual)


def _search_all(
    U: Float32[np.ndarray, "n d"], V: Float32[np.ndarray, "n d"], k: int, progress: Progress
) -> Neighbors:
    """Everything against everything, by blocks of queries, each in one thread.

    FAISS's own threads divide the queries by their number, and sums that come out a little different choose others
    among equals.
    """
    sides = (U, V)
    found = [np.empty((len(U), k), np.int32) for _ in sides]
    blocks = np.split(np.arange(len(U)), range(_QUERY_BLOCK, len(U), _QUERY_BLOCK))
    tasks = [(direction, own_ids) for direction in range(2) for own_ids in blocks]

    def search(task: tuple[int, np.ndarray]) -> int:
        direction, own_ids = task
        faiss.omp_set_num_threads(1)  # of the thread that calls
        near = nearest_exactly(sides[direction], sides[1 - direction], own_ids, k)
        found[direction][own_ids] = near
        return len(own_ids)

    with thread_pool() as pool:
        for done in accumulate(pool.map(search, tasks)):
            progress("neighbors", done, 2 * len(U), "queries")
    return Neighbors(*found, recall=1.0)


def nearest_exactly(
    queries: Float32[np.ndarray, "n d"],
    base: Float32[np.ndarray, "n d"],
    own_ids: Int64[np.ndarray, "q"],
    k: int,
) -> Int32[np.ndarray, "q k"]:
    """The k nearest of the queries with these ids, without themselves."""
    _, ids = faiss.knn(queries[own_ids], base, k + 1, metric=faiss.METRIC_INNER_PRODUCT)
    return drop_self(ids, own_ids)


def drop_self(ids: np.ndarray, own_ids: np.ndarray) -> Int32[np.ndarray, "n k"]:
    """Remove from each row of `ids` [n, k + 1] its own id, or the last one where it is absent.

    An index may miss the query itself, so the first column cannot be trusted to be it.
    """
    is_own = ids == own_ids[:, None]
    is_own[~is_own.any(axis=1), -1] = True
    return ids[~is_own].reshape(len(ids), -1).astype(np.int32)


def _search_cells(
    U: Float32[np.ndarray, "n d"],
    V: Float32[np.ndarray, "n d"],
    k: int,
    min_recall: float,
    seed: int,
    progress: Progress,
) -> Neighbors:
    """Each side looks into the cells of the other; both take what either finds."""
    num_pairs = len(U)
    rng = np.random.default_rng(seed)
    sample = rng.permutation(num_pairs)[:_RECALL_SAMPLE]
    v_of_u, u_of_v = nothing_found(num_pairs, k), nothing_found(num_pairs, k)
    num_cells = min(num_pairs, int(CELLS_PER_ROOT * math.sqrt(num_pairs)))

    def told(before: int, done: int) -> None:
        progress("neighbors", before + done, 2 * num_pairs, "queries")

    with one_blas_thread(), thread_pool() as pool:
        truth = [_truth(*sides, sample, k, pool) for sides in ((U, V), (V, U))]
        in_u, in_v = (divide(side, num_cells, rng, pool) for side in (U, V))
        samples = (
            (sample, truth[0], U, V, in_u, in_v),
            (sample, truth[1], V, U, in_v, in_u),
        )
        meetings = list(pool.map(lambda one: find_meetings(*one), samples))
        rule = rule_for(min_recall, meetings)
        del meetings
        look_into_cells(U, V, in_u, in_v, rule, v_of_u, u_of_v, pool, partial(told, 0))
        look_into_cells(V, U, in_v, in_u, rule, u_of_v, v_of_u, pool, partial(told, num_pairs))
        sort_nearest(v_of_u, pool)
        sort_nearest(u_of_v, pool)
    recall = min(
        _recall(v_of_u, sample, truth[0], U, V),
        _recall(u_of_v, sample, truth[1], V, U),
    )
    return Neighbors(v_of_u.ids, u_of_v.ids, recall, "ivf", len(sample))


def _truth(
    queries: Float32[np.ndarray, "n d"],
    base: Float32[np.ndarray, "n d"],
    sample: Int64[np.ndarray, "q"],
    k: int,
    pool: ThreadPoolExecutor,
) -> Int32[np.ndarray, "q k"]:
    """The k nearest of a sample, without themselves."""
    return drop_self(closest(queries[sample], base, k + 1, pool).ids, sample)


def _recall(
    found: Nearest,
    sample: Int64[np.ndarray, "q"],
    truth: Int32[np.ndarray, "q k"],
    queries: Float32[np.ndarray, "n d"],
    base: Float32[np.ndarray, "n d"],
) -> float:
    """Share of those found that are as similar as the last true one; among equals, it does not matter which."""
    least = np.einsum("qd,qd->q", queries[sample], base[truth[:, -1]])
    return float((found.similarities[sample] >= least[:, None] - _ROUNDING).mean())


def recall_at_k(found: np.ndarray, truth: np.ndarray) -> float:
    """Share of the ids in each row of `truth` that are in the same row of `found`, over all rows."""
    return float((found[:, :, None] == truth[:, None, :]).any(axis=1).mean())
