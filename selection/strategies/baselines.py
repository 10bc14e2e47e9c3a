"""Strategies that need no graph: all pairs at once, every possible batch, random ones, the hardest of random ones.

Legend: n nodes, m batches, c groups, k group size.
"""

import math
from itertools import chain, combinations

import numpy as np
from jaxtyping import Int64

from selection.config import OsgdConfig
from selection.errors import ConfigError
from selection.guard import separate
from selection.problem import Problem
from selection.quality import batch_losses
from selection.threads import one_blas_thread

MAX_BATCHES = 100_000
"""As many batches as `all` makes at most."""


def full(problem: Problem) -> Int64[np.ndarray, "1 n"]:
    """One batch of all pairs, the full-batch loss of the paper (arXiv 2307.05906).

    Raises:
        ConfigError: the batch is smaller than that.
    """
    check_full(problem.num_nodes, problem.group_size)
    return np.arange(problem.num_nodes)[None]


def check_full(num_pairs: int, batch_size: int) -> None:
    """Refuse a batch that is not all pairs.

    Raises:
        ConfigError: there are more pairs than that.
    """
    if num_pairs != batch_size:
        raise ConfigError(
            f"strategy: full takes all {num_pairs:,} pairs as one batch, but {batch_size:,} of a batch are to be "
            "chosen; set batch_size to the number of pairs, and neither a cluster size nor a random share"
        )


def every(problem: Problem) -> Int64[np.ndarray, "c k"]:
    """All C(N, B) batches, which have the same minimiser as the full batch (arXiv 2307.05906, theorem 4).

    The one strategy that repeats a pair: it is in C(N-1, B-1) of the batches.

    Raises:
        ConfigError: there are too many, or a batch is more than what is chosen.
    """
    if problem.group_size != problem.batch_size:
        raise ConfigError(
            f"strategy: all chooses whole batches of {problem.batch_size}, but groups of {problem.group_size} are "
            "asked for; set neither a cluster size nor a random share"
        )
    num_batches = count_every(problem.num_nodes, problem.group_size)
    ids = chain.from_iterable(combinations(range(problem.num_nodes), problem.group_size))
    shape = num_batches, problem.group_size
    return np.fromiter(ids, np.int64, count=num_batches * problem.group_size).reshape(shape)


def count_every(num_pairs: int, batch_size: int) -> int:
    """C(N, B).

    Raises:
        ConfigError: it is 0, or more than `MAX_BATCHES`.
    """
    if num_pairs < batch_size:
        raise ConfigError(
            f"strategy: all finds {num_pairs:,} pairs, fewer than a batch of {batch_size}; take a smaller batch"
        )
    logarithm = math.lgamma(num_pairs + 1)
    logarithm -= math.lgamma(batch_size + 1) + math.lgamma(num_pairs - batch_size + 1)
    if logarithm > math.log(MAX_BATCHES) + 1e-3:  # the number itself may have millions of digits
        raise ConfigError(
            f"strategy: all would make about 10^{logarithm / math.log(10):.0f} batches of {batch_size} from "
            f"{num_pairs:,} pairs, and at most {MAX_BATCHES:,} are made; take fewer pairs, or osgd"
        )
    return math.comb(num_pairs, batch_size)


def random(problem: Problem) -> Int64[np.ndarray, "c k"]:
    """Batches as an ordinary data loader makes them."""
    return problem.rng().permutation(problem.num_nodes).reshape(-1, problem.group_size)


def osgd(problem: Problem) -> Int64[np.ndarray, "c k"]:
    """The q hardest of every k random batches: ordered SGD on batches (arXiv 2307.05906, section 5.1).

    The authors' code draws k batches, trains on the q with the highest loss and embeds the data set again before the
    next k. Here a round compares all its batches, k at a time, so that one pass of embedding serves for the q / k of
    the pairs that are trained on; the others are left over. The loss is the one that is trained, InfoNCE.

    Who must not meet is moved apart among all the random batches: they are hard, and among the few that are kept there
    may be no place for them.
    """
    config = problem.config.osgd
    candidates = separate(random(problem), problem.forbidden, np.empty(0, np.int64)).batches
    with problem.timed("losses_s"), one_blas_thread():
        losses = batch_losses(problem.U, problem.V, candidates, problem.temperature)
    kept: list[np.ndarray] = []
    for start in range(0, len(losses), config.num_candidates):
        rivals = losses[start : start + config.num_candidates]
        hardest_first = np.argsort(-rivals, kind="stable")
        kept.append(start + hardest_first[: count_kept(len(rivals), config)])
    return candidates[np.concatenate(kept)]


def count_kept(num_candidates: int, config: OsgdConfig) -> int:
    """Batches that `osgd` keeps: q of every k, and the same share, rounded up, of the last that are fewer than k."""
    num_full, rest = divmod(num_candidates, config.num_candidates)
    return num_full * config.num_kept + math.ceil(rest * config.num_kept / config.num_candidates)
