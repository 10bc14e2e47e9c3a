"""The ways to form batches: one name, one function of the problem, and how many batches it makes."""

from selection.config import SelectionConfig
from selection.problem import Strategy
from selection.strategies.balanced_kmeans import kmeans
from selection.strategies.baselines import (
    check_full,
    count_every,
    count_kept,
    every,
    full,
    osgd,
    random,
)
from selection.strategies.orders import random_walk, rcm
from selection.strategies.paper import paper_spectral
from selection.strategies.partitioners import kaminpar, metis, require
from selection.strategies.spectral import spectral

STRATEGIES: dict[str, Strategy] = {
    "full": full,
    "all": every,
    "random": random,
    "osgd": osgd,
    "spectral": spectral,
    "paper_spectral": paper_spectral,
    "metis": metis,
    "kaminpar": kaminpar,
    "rcm": rcm,
    "random_walk": random_walk,
    "kmeans": kmeans,
}
"""By the name that `selection.strategy` has in a configuration."""

_PACKAGES = {"metis": "pymetis", "kaminpar": "kaminpar"}


def plan_num_batches(config: SelectionConfig, num_pairs: int, batch_size: int) -> int:
    """How many batches the strategy will make of `num_pairs` pairs, before there are embeddings.

    A guard that holds pairs back may leave fewer.

    Raises:
        ConfigError: the strategy does not suit the data, or its package is missing.
    """
    config.regions.check(config.strategy, num_pairs, batch_size)
    if config.strategy in _PACKAGES:
        require(config.strategy, _PACKAGES[config.strategy])
    if config.strategy == "full":
        check_full(num_pairs, batch_size)
    if config.strategy == "all":
        return count_every(num_pairs, batch_size)
    num_batches = num_pairs // batch_size
    return count_kept(num_batches, config.osgd) if config.strategy == "osgd" else num_batches
