"""The ways to choose batches that the synthetic study compares, for many runs at once.

Coterie's own strategies choose for each run in turn. Added here are what only a study of a few free embeddings can
do: fixed batches, the hardest of all pairs before every single update, and a greedy matching.

Legend: s runs, n pairs, d dimensions, u updates, m batches whose mean one update takes, b batch size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float64, Int64

from launcher.studies.designs import all_batches, fixed_batches
from selection.config import SelectionConfig, StrategyName
from selection.problem import Problem
from selection.strategies import STRATEGIES

BATCH_SIZE = 2


@dataclass(frozen=True)
class Method:
    """How batches are chosen, and how often."""

    label: str
    choose: Callable[[Float64[np.ndarray, "2 s n d"], int, int], Int64[np.ndarray, "s u m b"]]
    """From U and V, the seed of the study and the epoch: batches of the next u updates."""

    every_update: bool = False
    """Whether it chooses before each of the N / B updates of an epoch instead of once."""


def by_strategy(
    embeddings: Float64[np.ndarray, "2 s n d"],
    seed: int,
    epoch: int,
    strategy: StrategyName,
    batch_size: int | None = BATCH_SIZE,
    at_once: bool = False,
) -> Int64[np.ndarray, "s u m b"]:
    """Batches of one of Coterie's strategies at temperature 1; `at_once` takes their mean in one update."""
    size = batch_size or embeddings.shape[2]
    config = SelectionConfig(strategy=strategy)
    chosen = [
        STRATEGIES[strategy](Problem(U, V, size, size, 1.0, config, (seed + run, epoch)))
        for run, (U, V) in enumerate(zip(*embeddings.astype(np.float32), strict=True))
    ]
    batches = np.stack(chosen)
    return batches[:, None] if at_once else batches[:, :, None]


def fixed(
    embeddings: Float64[np.ndarray, "2 s n d"], seed: int, epoch: int
) -> Int64[np.ndarray, "s u 1 2"]:
    """The same disjoint batches in every epoch."""
    batches = fixed_batches(embeddings.shape[2], BATCH_SIZE)
    return np.broadcast_to(batches[None, :, None], (embeddings.shape[1], len(batches), 1, 2))


def hardest_pair(
    embeddings: Float64[np.ndarray, "2 s n d"], seed: int, epoch: int
) -> Int64[np.ndarray, "s 1 1 2"]:
    """Ordered SGD with q = 1 of all k = C(N, 2) batches: the one with the largest loss."""
    losses = pair_losses(embeddings)
    pairs = all_batches(losses.shape[1], BATCH_SIZE)
    hardest = losses[:, pairs[:, 0], pairs[:, 1]].argmax(axis=1)
    return pairs[hardest][:, None, None]


def greedy_matching(
    embeddings: Float64[np.ndarray, "2 s n d"], seed: int, epoch: int
) -> Int64[np.ndarray, "s u 1 2"]:
    """Disjoint pairs, hardest first."""
    losses = pair_losses(embeddings)
    num_runs, num_pairs = losses.shape[:2]
    runs = np.arange(num_runs)
    batches = np.empty((num_runs, num_pairs // BATCH_SIZE, 1, BATCH_SIZE), np.int64)
    for place in range(batches.shape[1]):
        ends = np.unravel_index(losses.reshape(num_runs, -1).argmax(axis=1), (num_pairs,) * 2)
        batches[:, place, 0] = np.transpose(ends)
        for end in ends:
            losses[runs, end] = losses[runs, :, end] = -np.inf
    return batches


def pair_losses(embeddings: Float64[np.ndarray, "2 s n d"]) -> Float64[np.ndarray, "s n n"]:
    """L_con of every batch of two, half the weight w(k, l) of `selection.affinity`; minus infinity on the diagonal."""
    U, V = embeddings
    similarities = U @ V.swapaxes(1, 2)
    positives = np.einsum("sii->si", similarities)[:, :, None]
    one_way = np.logaddexp(0, similarities - positives)
    one_way += np.logaddexp(0, similarities.swapaxes(1, 2) - positives)
    losses = (one_way + one_way.swapaxes(1, 2)) / 2
    losses[:, range(losses.shape[1]), range(losses.shape[1])] = -np.inf
    return losses


METHODS: dict[str, Method] = {
    "full": Method("full batch", partial(by_strategy, strategy="full", batch_size=None)),
    "all": Method("all C(N, 2) batches", partial(by_strategy, strategy="all", at_once=True)),
    "random": Method("random (SGD)", partial(by_strategy, strategy="random")),
    "fixed": Method("fixed", fixed),
    "osgd": Method("OSGD", hardest_pair, every_update=True),
    "paper_spectral": Method("spectral (paper)", partial(by_strategy, strategy="paper_spectral")),
    "spectral": Method("spectral (Coterie)", partial(by_strategy, strategy="spectral")),
    "greedy": Method("greedy matching", greedy_matching),
}
"""By name, in the order of the pictures."""
