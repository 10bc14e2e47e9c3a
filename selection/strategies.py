"""The ways to form batches: one name, one function.

A strategy gets the problem and returns all of its nodes, grouped into batches of exactly B. Nodes are 0 .. n-1 with n a
multiple of B; which pairs they stand for, and which pairs are left over, is settled in `selection/select.py`.

Legend: n nodes, m batches, b batch size, c clusters, k cluster size, d dimensions.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float32, Int64

from selection.affinity import build_affinity
from selection.config import SelectionConfig
from selection.exact_swap import exact_swaps
from selection.knn import Neighbors, find_neighbors
from selection.partition import Mapper, partition
from selection.progress import Progress
from selection.refine import swap_refine


@dataclass
class Problem:
    """What a strategy may look at; the graph is built when it is first asked for."""

    U: Float32[np.ndarray, "n d"]
    V: Float32[np.ndarray, "n d"]
    batch_size: int
    temperature: float
    config: SelectionConfig
    seed: tuple[int, int]
    map_tasks: Mapper
    progress: Progress
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def cluster_size(self) -> int:
        """K: nodes that are chosen together."""
        return self.config.cluster_size or self.batch_size

    @cached_property
    def neighbors(self) -> Neighbors:
        """The nearest neighbours in both directions."""
        start = time.perf_counter()
        neighbors = find_neighbors(
            self.U, self.V, self.config.graph, seed=self.seed[0], progress=self.progress
        )
        self.seconds["neighbors_s"] = time.perf_counter() - start
        return neighbors

    @cached_property
    def affinity(self) -> sp.csr_array:
        """The loss weights between neighbours."""
        neighbors = self.neighbors
        start = time.perf_counter()
        affinity = build_affinity(self.U, self.V, neighbors, self.batch_size, self.temperature)
        self.seconds["affinity_s"] = time.perf_counter() - start
        return affinity


Strategy = Callable[[Problem], Int64[np.ndarray, "m b"]]


def spectral(problem: Problem) -> Int64[np.ndarray, "m b"]:
    """Recursive spectral clustering of the affinity, then swaps between batches."""
    affinity, config = problem.affinity, problem.config.spectral
    start = time.perf_counter()
    clusters = partition(
        affinity, problem.cluster_size, config, problem.seed, problem.map_tasks, problem.progress
    )
    problem.seconds["cluster_s"] = time.perf_counter() - start
    start = time.perf_counter()
    clusters = swap_refine(affinity, clusters, config.swap_sweeps, problem.progress)
    clusters = exact_swaps(
        affinity, problem.U, problem.V, clusters, problem.temperature,
        config.affinity_share, config.exact_sweeps, problem.progress,
    )  # fmt: skip
    problem.seconds["swap_s"] = time.perf_counter() - start
    return pack(clusters, problem.batch_size, np.random.default_rng(problem.seed))


def pack(
    clusters: Int64[np.ndarray, "c k"], batch_size: int, rng: np.random.Generator
) -> Int64[np.ndarray, "m b"]:
    """Put B / K clusters together at random into each batch."""
    return rng.permutation(clusters, axis=0).reshape(-1, batch_size)


STRATEGIES: dict[str, Strategy] = {"spectral": spectral}
"""Strategies that look at embeddings; `random` needs none and is settled in `selection/select.py`."""
