"""The search that FAISS does when it is called directly: what `selection.knn` is measured against.

An inverted file for each direction, as FAISS's own guide advises: 4 sqrt(N) cells, 64 training points for each, and as
few probes as the recall on a sample of queries needs. Looking for that number is not timed.

Legend: n pairs, d dimensions, k neighbours.
"""

import time

import faiss
import numpy as np
from jaxtyping import Float32

from selection.knn import drop_self, nearest_exactly, recall_at_k

_CELLS_PER_ROOT = 4
_TRAIN_POINTS_PER_CELL = 64
_SAMPLE = 512
_STEP = 1.2


def search_with_faiss(
    U: Float32[np.ndarray, "n d"], V: Float32[np.ndarray, "n d"], k: int, min_recall: float
) -> float:
    """Seconds of both directions; everything is compared with everything where a recall of 1 is asked for."""
    return sum(_search(*sides, k, min_recall) for sides in ((U, V), (V, U)))


def _search(
    queries: Float32[np.ndarray, "n d"], base: Float32[np.ndarray, "n d"], k: int, min_recall: float
) -> float:
    dim = base.shape[1]
    start = time.perf_counter()
    index = faiss.IndexFlatIP(dim)
    if min_recall < 1:
        num_cells = int(_CELLS_PER_ROOT * len(base) ** 0.5)
        index = faiss.IndexIVFFlat(index, dim, num_cells, faiss.METRIC_INNER_PRODUCT)
        index.cp.max_points_per_centroid, index.cp.spherical = _TRAIN_POINTS_PER_CELL, True
        index.train(base)  # type: ignore[call-arg]
    index.add(base)  # type: ignore[call-arg]
    seconds = time.perf_counter() - start
    if min_recall < 1:
        _probe_enough(index, queries, base, k, min_recall)
    start = time.perf_counter()
    index.search(queries, k + 1)  # type: ignore[call-arg]
    return seconds + time.perf_counter() - start


def _probe_enough(
    index: faiss.IndexIVFFlat,
    queries: Float32[np.ndarray, "n d"],
    base: Float32[np.ndarray, "n d"],
    k: int,
    min_recall: float,
) -> None:
    """Raise the number of probes until the recall on a sample is enough."""
    sample = np.random.default_rng(0).permutation(len(queries))[:_SAMPLE]
    truth = nearest_exactly(queries, base, sample, k)
    while index.nprobe < index.nlist:
        _, ids = index.search(queries[sample], k + 1)  # type: ignore[call-arg]
        if recall_at_k(drop_self(ids, sample), truth) >= min_recall:
            return
        index.nprobe = min(index.nlist, int(index.nprobe * _STEP) + 1)
