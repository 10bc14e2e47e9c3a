"""The K nearest neighbours in both directions: V of each u, and U of each v, without the pair itself.

FAISS does the search. `flat` compares everything with everything, exactly, in O(N^2 d); `ivf` looks into the
nearest of about 4 sqrt(N) cells only, and looks into more until the recall on a sample of queries is reached.
Recall is always measured, because an approximate index can fail silently.

Legend: n pairs, d dimensions, k neighbours.
"""

import math
from dataclasses import dataclass

import faiss
import numpy as np
from jaxtyping import Float32, Int32

from selection.config import GraphConfig
from selection.progress import Progress, silent

MAX_FLAT_PAIRS = 50_000
_QUERY_BLOCK = 4096
_RECALL_SAMPLE = 512
_TRAIN_POINTS_PER_CELL = 64


@dataclass(frozen=True)
class Neighbors:
    """Ids of the nearest neighbours in both directions, nearest first; -1 where there are fewer than k."""

    v_of_u: Int32[np.ndarray, "n k"]
    u_of_v: Int32[np.ndarray, "n k"]
    recall: float
    """Share of the true neighbours that were found, on a sample of queries."""

    index: str = "flat"
    """FAISS index that was searched: `flat` or `ivf`."""

    num_recall_queries: int = 0
    """Size of that sample; 0 for `flat`, whose recall is 1 by definition."""

    num_probes: tuple[int, ...] = ()
    """Cells that `ivf` looked into, in each direction."""

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
    num_pairs = len(U)
    k = min(config.first_rank + config.num_neighbors, num_pairs - 1)
    exact = config.index == "flat" or (config.index == "auto" and num_pairs <= MAX_FLAT_PAIRS)
    sample = np.random.default_rng(seed).permutation(num_pairs)[:_RECALL_SAMPLE]
    found: list[Int32[np.ndarray, "n k"]] = []
    recalls: list[float] = []
    num_probes: list[int] = []
    for direction, (queries, base) in enumerate(((U, V), (V, U))):
        if exact:
            index, recall = faiss.IndexFlatIP(base.shape[1]), 1.0
            index.add(base)  # type: ignore[call-arg]
        else:
            index, recall = _cells(queries, base, sample, k, config.min_recall, seed)
            num_probes.append(index.nprobe)
        ids = np.empty((num_pairs, k), np.int32)
        for start in range(0, num_pairs, _QUERY_BLOCK):
            stop = min(start + _QUERY_BLOCK, num_pairs)
            ids[start:stop] = _search(index, queries[start:stop], np.arange(start, stop), k)
            progress("neighbors", direction * num_pairs + stop, 2 * num_pairs, "queries")
        found.append(ids)
        recalls.append(recall)
    return Neighbors(
        found[0],
        found[1],
        min(recalls),
        "flat" if exact else "ivf",
        0 if exact else len(sample),
        tuple(num_probes),
        config.first_rank,
        config.mutual,
    )


def _search(
    index: faiss.Index, queries: np.ndarray, own_ids: np.ndarray, k: int
) -> Int32[np.ndarray, "n k"]:
    """The k nearest of each query, without its own id."""
    _, ids = index.search(queries, k + 1)  # type: ignore[call-arg]
    return drop_self(ids, own_ids)


def drop_self(ids: np.ndarray, own_ids: np.ndarray) -> Int32[np.ndarray, "n k"]:
    """Remove from each row of `ids` [n, k + 1] its own id, or the last one where it is absent.

    An index may miss the query itself, so the first column cannot be trusted to be it.
    """
    is_own = ids == own_ids[:, None]
    is_own[~is_own.any(axis=1), -1] = True
    return ids[~is_own].reshape(len(ids), -1).astype(np.int32)


def _cells(
    queries: np.ndarray,
    base: np.ndarray,
    sample: np.ndarray,
    k: int,
    min_recall: float,
    seed: int,
) -> tuple[faiss.IndexIVFFlat, float]:
    """An inverted-file index of `base` that probes enough cells for the recall, and that recall."""
    num_pairs, dim = base.shape
    num_cells = max(1, int(4 * math.sqrt(num_pairs)))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, num_cells, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed = 1 + seed % 2**30  # FAISS wants an int
    index.cp.max_points_per_centroid = _TRAIN_POINTS_PER_CELL
    index.cp.spherical = True
    index.train(base)  # type: ignore[call-arg]
    index.add(base)  # type: ignore[call-arg]
    _, true_ids = faiss.knn(queries[sample], base, k + 1, metric=faiss.METRIC_INNER_PRODUCT)
    truth = drop_self(true_ids, sample)
    index.nprobe = 4
    while True:
        recall = recall_at_k(_search(index, queries[sample], sample, k), truth)
        if recall >= min_recall or index.nprobe >= index.nlist:
            return index, recall
        index.nprobe = min(2 * index.nprobe, index.nlist)


def recall_at_k(found: np.ndarray, truth: np.ndarray) -> float:
    """Share of the ids in each row of `truth` that are in the same row of `found`, over all rows."""
    return float((found[:, :, None] == truth[:, None, :]).any(axis=1).mean())
