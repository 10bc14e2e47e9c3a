"""Balanced k-means of the embeddings, split after split: the strategy that looks at the vectors and at no graph.

A pair is the point [u, v], so that two pairs are near when both sides are alike. N points and N / B clusters would be a
table of N^2 / B scores; so a part is split into few children, whole batches each, and the children again, as the
spectral strategy does. NGAME (arXiv 2207.04452) and CDE (arXiv 2410.02525) batch by clusters of embeddings too, the one
with recursive bisection, the other with flat clusters that it cuts at their borders.

Time O(n * fan-out * d) a level, with about log(c) / log(fan-out) levels; memory n * (d + fan-out) floats.

Legend: n nodes, d dimensions of a point, c groups, k group size.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from selection.balanced import balanced_clusters, by_cluster, normalize_rows
from selection.partition import child_sizes
from selection.problem import Problem
from selection.threads import one_blas_thread

_BALANCED_STEPS = 6


@dataclass(frozen=True)
class _Split:
    """What one split needs, wherever it runs."""

    points: Float32[np.ndarray, "n d"]
    capacities: Int64[np.ndarray, "c"]
    seed: tuple[int, ...]


def kmeans(problem: Problem) -> Int64[np.ndarray, "c k"]:
    """Recursive balanced k-means of [u, v]."""
    points = normalize_rows(np.concatenate([problem.U, problem.V], axis=1))
    parts = [np.arange(problem.num_nodes)]
    level = 0
    with problem.timed("partition_s"), one_blas_thread():
        while max(map(len, parts)) > problem.group_size:
            parts = _split_all(problem, points, parts, level)
            level += 1
    return np.stack(parts)


def _split_all(
    problem: Problem, points: Float32[np.ndarray, "n d"], parts: list[np.ndarray], level: int
) -> list[np.ndarray]:
    """The children of all parts, in order."""
    group_size, fan_out = problem.group_size, problem.config.kmeans.fan_out
    tasks = (
        _Split(
            points[part],
            child_sizes(len(part) // group_size, fan_out) * group_size,
            (*problem.seed, level, number),
        )
        for number, part in enumerate(parts)
    )
    children: list[np.ndarray] = []
    done = 0
    for part, cluster_ids in zip(parts, problem.map_tasks(_split, tasks), strict=True):
        children += by_cluster(part, cluster_ids)
        done += len(part)
        problem.progress(f"cluster level {level + 1}", done, problem.num_nodes)
    return children


def _split(task: _Split) -> Int64[np.ndarray, "n"]:
    """The child of each point."""
    if len(task.capacities) == 1:
        return np.zeros(len(task.points), np.int64)
    rng = np.random.default_rng(task.seed)
    return balanced_clusters(task.points, task.capacities, rng, _BALANCED_STEPS)
