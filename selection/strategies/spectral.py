"""The strategy that the project exists for: spectral clustering, moves, swaps."""

import numpy as np
from jaxtyping import Int64

from selection.moves import move_nodes
from selection.partition import partition
from selection.problem import Problem
from selection.refine import swap_refine


def spectral(problem: Problem) -> Int64[np.ndarray, "c k"]:
    """Recursive spectral clustering of the affinity, then moves and swaps between groups."""
    graph, config = problem.affinity, problem.config.spectral
    with problem.timed("partition_s"):
        groups = partition(
            graph, problem.group_size, config, problem.seed, problem.map_tasks, problem.progress,
            problem.signals,
        )  # fmt: skip
    del graph
    with problem.repelling() as graph:
        with problem.timed("partition_s"):
            groups = move_nodes(graph, groups, config.move_rounds, problem.progress)
        with problem.timed("swap_s"):
            return swap_refine(
                graph, problem.U, problem.V, groups, problem.temperature,
                config.affinity_share, config.swap_sweeps, problem.progress,
            )  # fmt: skip
