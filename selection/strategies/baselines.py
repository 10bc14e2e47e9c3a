"""Strategies that need no graph."""

import numpy as np
from jaxtyping import Int64

from selection.problem import Problem


def random(problem: Problem) -> Int64[np.ndarray, "c k"]:
    """Batches as an ordinary data loader makes them."""
    return problem.rng().permutation(problem.num_nodes).reshape(-1, problem.group_size)
