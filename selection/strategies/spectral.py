"""The strategy that the project exists for: spectral clustering, exchange, swaps."""

import numpy as np
from jaxtyping import Int64

from selection.exact_swap import exact_swaps
from selection.partition import partition
from selection.problem import Problem
from selection.refine import swap_refine


def spectral(problem: Problem) -> Int64[np.ndarray, "c k"]:
    """Recursive spectral clustering of the affinity, then swaps between groups."""
    affinity, config = problem.affinity, problem.config.spectral
    with problem.timed("partition_s"):
        groups = partition(
            affinity, problem.group_size, config, problem.seed, problem.map_tasks, problem.progress
        )
    with problem.timed("swap_s"):
        groups = swap_refine(affinity, groups, config.swap_sweeps, problem.progress)
        return exact_swaps(
            affinity, problem.U, problem.V, groups, problem.temperature,
            config.affinity_share, config.exact_sweeps, problem.progress,
        )  # fmt: skip
