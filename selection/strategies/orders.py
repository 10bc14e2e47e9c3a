"""Strategies that visit the graph node after node: a band order cut into slices, and random walks.

Legend: n nodes, c groups, k group size.
"""

import numba
import numpy as np
from jaxtyping import Int64
from scipy.sparse.csgraph import reverse_cuthill_mckee

from selection.problem import Problem


def rcm(problem: Problem) -> Int64[np.ndarray, "c k"]:
    """GCBS (Sachidananda et al., ICML 2023, arXiv 2210.12874): a reverse Cuthill-McKee order cut into slices.

    The order keeps neighbours near each other, so that most of a node's links are to its own slice or the next.
    GCBS keeps the pairs above one global quantile of all similarities as links; here the links are the graph's. It
    looks at no weights. Time O(nnz).
    """
    affinity = problem.affinity
    with problem.timed("order_s"):
        order = reverse_cuthill_mckee(affinity, symmetric_mode=True)
    return order.astype(np.int64).reshape(-1, problem.group_size)


def random_walk(problem: Problem) -> Int64[np.ndarray, "c k"]:
    """BatchSampler (Yang et al., KDD 2023, arXiv 2306.03355): the nodes that a random walk with restart visits most.

    Theirs walks over the nearest of a random sample of candidates, fills a batch with the first nodes that it meets,
    and draws batches that overlap. Here the graph is that of all strategies and a node is in one batch at most: a walk
    sees only nodes that are still free, and when it finds too few of them another one begins. The last batches are
    therefore made of what is left. Links are taken with equal chance, as in theirs. Time O(steps * neighbours).
    """
    affinity, config, rng = problem.affinity, problem.config.random_walk, problem.rng()
    with problem.timed("walk_s"):
        starts = rng.permutation(problem.num_nodes)
        num_steps = config.steps_per_node * problem.group_size
        return _walks(
            affinity.indptr, affinity.indices, starts, problem.group_size,
            num_steps, config.restart_share, rng.integers(1 << 32),
        )  # fmt: skip


@numba.njit(cache=True)
def _walks(indptr, indices, starts, group_size, num_steps, restart_share, seed):
    """Fill group after group by walks that begin at the next free node of `starts`."""
    np.random.seed(seed)  # numba's own generator, one per thread
    num_nodes = len(starts)
    is_free = np.ones(num_nodes, np.bool_)
    visits = np.zeros(num_nodes, np.int32)
    groups = np.empty((num_nodes // group_size, group_size), np.int64)
    next_start = 0
    for group in groups:
        size = 0
        while size < group_size:
            while not is_free[starts[next_start]]:
                next_start += 1
            seen = _walk(
                indptr, indices, starts[next_start], num_steps, restart_share, is_free, visits
            )
            most_visited = seen[np.argsort(-visits[seen], kind="mergesort")]
            for node in most_visited[: group_size - size]:
                group[size] = node
                is_free[node] = False
                size += 1
            visits[seen] = 0
    return groups


@numba.njit(cache=True)
def _walk(indptr, indices, start, num_steps, restart_share, is_free, visits):
    """Walk over free nodes, count the visits in `visits`; returns the nodes in the order of their first visit."""
    seen = np.empty(num_steps + 1, np.int64)
    seen[0] = start
    num_seen = 1
    visits[start] = num_steps + 1  # it belongs to its own batch
    node = start
    for _ in range(num_steps):
        goes_back = np.random.random() < restart_share
        node = start if goes_back else _free_neighbor(indptr, indices, node, is_free)
        if node < 0:
            if num_seen == 1:
                break  # nobody around is free
            node = start
        if not visits[node]:
            seen[num_seen] = node
            num_seen += 1
        visits[node] += 1
    return seen[:num_seen]


@numba.njit(cache=True)
def _free_neighbor(indptr, indices, node, is_free):
    """A free neighbour, each with equal chance; -1 if there is none."""
    num_free = 0
    for entry in range(indptr[node], indptr[node + 1]):
        num_free += is_free[indices[entry]]
    skipped = int(np.random.random() * num_free)
    for entry in range(indptr[node], indptr[node + 1]):
        if is_free[indices[entry]]:
            if not skipped:
                return indices[entry]
            skipped -= 1
    return -1
