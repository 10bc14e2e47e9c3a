"""Recursive spectral split of a graph into groups of exactly B nodes.

One split takes the leading eigenvectors, finds as many clusters as the part has children, gives every child exactly
its number of nodes, and exchanges nodes between the children as long as that keeps more affinity inside. A child
is a whole number of batches, so the sizes stay exact all the way down. Sub-problems of one level do not touch each
other: `map_tasks` may send them to other machines.

Legend: n nodes, c clusters, k eigenvectors.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float32, Int64

from selection.balanced import balanced_clusters, by_cluster, normalize_rows
from selection.config import SpectralConfig
from selection.exchange import exchange
from selection.problem import Mapper, Signals
from selection.progress import Progress, silent
from selection.spectral import eigengap, inverse_sqrt_degrees, leading_eigenvectors
from selection.subgraph import strongest_links, subgraph
from selection.threads import one_blas_thread, thread_map, thread_pool

_BALANCED_STEPS = 2


@dataclass(frozen=True)
class Part:
    """A set of nodes that will become `len(nodes) / B` batches; `path` is its place in the tree."""

    nodes: Int64[np.ndarray, "n"]
    path: tuple[int, ...] = ()


@dataclass(frozen=True)
class SplitTask:
    """What one split needs, wherever it runs."""

    affinity: sp.csr_array
    batch_size: int
    config: SpectralConfig
    seed: tuple[int, ...]
    pool: ThreadPoolExecutor | None = None
    """Threads, for a task that runs alone; those that run side by side use one each."""


def partition(
    affinity: sp.csr_array,
    batch_size: int,
    config: SpectralConfig,
    seed: tuple[int, ...],
    map_tasks: Mapper = thread_map,
    progress: Progress = silent,
    signals: Signals | None = None,
) -> Int64[np.ndarray, "m b"]:
    """Split all nodes into batches.

    Args:
        affinity: symmetric [n, n]; n must be a multiple of `batch_size`.
        batch_size: B.
        config: fan-out, eigenvectors, exchange.
        seed: every split draws from (seed, its place in the tree), so the result does not depend on who does it.
        map_tasks: where the sub-problems run.
        progress: told after each part.
        signals: gets the leading `eigenvalues` of the first split, and the `eigengap` behind as many as it looks at.

    Returns:
        Node ids by batch; nodes of neighbouring batches are related.
    """
    num_nodes = affinity.shape[0]
    parts = [Part(np.arange(num_nodes))]
    finished: list[Part] = []
    places = np.full(num_nodes, -1, np.int32)
    with one_blas_thread(), thread_pool() as pool:
        while parts:
            # the first split is the largest by far: it stays here and gets all threads
            alone = pool if len(parts) == 1 else None
            tasks = (
                SplitTask(
                    subgraph(affinity, part.nodes, places) if part.path else affinity,
                    batch_size,
                    config,
                    (*seed, *part.path),
                    alone,
                )
                for part in parts
            )
            splits = map(split, tasks) if alone else map_tasks(split, tasks)
            children: list[Part] = []
            for part, (cluster_ids, values) in zip(parts, splits, strict=True):
                if signals is not None and not part.path and len(values) > 1:
                    signals["eigenvalues"] = values.tolist()
                    signals["eigengap"] = eigengap(values, len(values) - 1)
                for child in _children(part, cluster_ids):
                    (finished if len(child.nodes) == batch_size else children).append(child)
                progress("cluster", len(finished) * batch_size, num_nodes)
            parts = children
    finished.sort(key=lambda part: part.path)
    return np.stack([part.nodes for part in finished])


def split(task: SplitTask) -> tuple[Int64[np.ndarray, "n"], Float32[np.ndarray, "e"]]:
    """Cluster the nodes of one part into children of whole batches.

    Returns:
        The child of each node, and the eigenvalues of the vectors that were looked at, and of the next one where there
        is one; none where there is but one child.
    """
    num_batches = task.affinity.shape[0] // task.batch_size
    capacities = child_sizes(num_batches, task.config.fan_out) * task.batch_size
    if len(capacities) == 1:
        return np.zeros(task.affinity.shape[0], np.int64), np.empty(0, np.float32)
    rng = np.random.default_rng(task.seed)
    num_eigenvectors = min(task.config.num_eigenvectors, len(capacities))
    strong = strongest_links(task.affinity, task.config.num_links, task.pool)
    device = task.config.device if task.pool else "cpu"  # the first split alone
    vectors, values = leading_eigenvectors(strong, num_eigenvectors, rng, task.pool, device)
    points = normalize_rows(vectors * inverse_sqrt_degrees(strong)[:, None])
    cluster_ids = balanced_clusters(points, capacities, rng, _BALANCED_STEPS)
    cluster_ids = exchange(
        task.affinity, cluster_ids, len(capacities), task.config.exchange_passes, task.pool
    )
    return cluster_ids, values[: num_eigenvectors + 1]


def child_sizes(num_batches: int, fan_out: int) -> Int64[np.ndarray, "c"]:
    """Batches of each child, such that all levels of the tree have about the same fan-out.

    For 1,315 batches and a fan-out of 32 that is 37 children of 35 or 36, not 32 of 41 or 42 which would then fall into
    32 very unequal ones.
    """
    if num_batches <= fan_out:
        return np.ones(num_batches, np.int64)
    num_levels = max(1, round(math.log(num_batches, fan_out)))
    num_children = min(num_batches, math.ceil(num_batches ** (1 / num_levels)))
    sizes = np.full(num_children, num_batches // num_children)
    sizes[: num_batches % num_children] += 1
    return sizes


def _children(part: Part, cluster_ids: np.ndarray) -> list[Part]:
    return [
        Part(nodes, (*part.path, child))
        for child, nodes in enumerate(by_cluster(part.nodes, cluster_ids))
    ]
