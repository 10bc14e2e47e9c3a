"""What a strategy gets to see: embeddings, and the graph of what is confused, built when it is first asked for.

Legend: n nodes, c groups, k group size, d dimensions.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float32, Int32, Int64

from selection.affinity import build_affinity
from selection.config import SelectionConfig
from selection.forbidden import Forbidden, find_false_negatives, nothing_forbidden
from selection.knn import Neighbors, find_neighbors
from selection.progress import Progress, silent
from selection.search_quality import measure_neighbors

Mapper = Callable[[Callable, Iterable], Iterable]
"""Like the built-in `map`: applies a function to items, here or elsewhere, results in order."""


Signals = dict[str, float | str | list[float]]
"""What is measured of a schedule, by the name of its field in the manifest."""


@dataclass
class Problem:
    """Nodes 0 .. n-1 that a strategy divides into groups of exactly `group_size`; n is a multiple of it."""

    U: Float32[np.ndarray, "n d"]
    V: Float32[np.ndarray, "n d"]
    batch_size: int
    group_size: int
    temperature: float
    config: SelectionConfig
    seed: tuple[int, int]
    map_tasks: Mapper = map
    progress: Progress = silent
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds of each stage, for the manifest."""
    signals: Signals = field(default_factory=dict)
    """What a strategy has to say about its work, such as an `eigengap`, for the manifest."""
    contents: Int32[np.ndarray, "n 2"] | None = None
    """Nodes that share a number must not meet, see `selection.duplicates`; None when no two nodes do."""

    @property
    def num_nodes(self) -> int:
        """How many there are."""
        return len(self.U)

    @cached_property
    def neighbors(self) -> Neighbors:
        """The nearest neighbours in both directions, for `forbidden` and `affinity`, which drops them."""
        with self.timed("neighbors_s"):
            found = find_neighbors(
                self.U, self.V, self.config.graph, seed=self.seed[0], progress=self.progress
            )
        self.signals |= measure_neighbors(found)
        return found

    @cached_property
    def forbidden(self) -> Forbidden:
        """Who must not share a batch: equal contents, and false negatives where a margin is set."""
        forbidden = nothing_forbidden(self.num_nodes)
        if self.contents is not None:
            forbidden = replace(forbidden, contents=self.contents)
        margin = self.config.hardness.margin
        if margin is None or not self.num_nodes:
            return forbidden
        neighbors = self.neighbors
        with self.timed("margin_s"):
            links, share = find_false_negatives(self.U, self.V, neighbors, margin)
        self.signals |= {"num_false_negatives": links.nnz // 2, "false_negative_share": share}
        return replace(forbidden, links=links)

    @cached_property
    def affinity(self) -> sp.csr_array:
        """Loss weights w(k, l) between neighbours that may meet: symmetric [n, n], sorted indices, empty diagonal."""
        neighbors, forbidden = self.neighbors, self.forbidden
        with self.timed("affinity_s"):
            graph = build_affinity(self.U, self.V, neighbors, self.batch_size, self.temperature)
            del self.neighbors, neighbors  # a tenth of the memory of a selection
            return forbidden.remove_from(graph)

    @contextmanager
    def repelling(self) -> Iterator[sp.csr_array]:
        """The affinity, with a large negative weight between nodes that must not meet; for moves and swaps.

        Until the end it stands in for `affinity`: a selection has no memory for both.
        """
        graph = self.forbidden.repel(self.affinity)
        del self.affinity
        yield graph
        self.affinity = self.forbidden.calm(graph)

    def rng(self) -> np.random.Generator:
        """A generator that depends on (seed, round) alone."""
        return np.random.default_rng(self.seed)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the seconds of the body to `seconds`."""
        start = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


Strategy = Callable[[Problem], Int64[np.ndarray, "c k"]]
"""Returns groups of exactly `group_size` node ids, each id at most once."""
