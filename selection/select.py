"""From embeddings to a schedule: who takes part, which batches they form, and how hard those are.

Every pair is scheduled at most once. N mod B pairs are left over, chosen at random among those that were not left over
in the round before, so that no pair is left out twice in a row (unless N < 2B).

Legend: n pairs, m batches, b batch size, d dimensions, r left over.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from selection.config import SelectionConfig
from selection.errors import ConfigError
from selection.partition import Mapper
from selection.progress import Progress, silent
from selection.quality import batch_losses, captured_affinity, random_batches
from selection.schedule import Schedule, write_schedule
from selection.strategies import STRATEGIES, Problem

Embeddings = tuple[Float32[np.ndarray, "n d"], Float32[np.ndarray, "n d"]]

_MEASURED_BATCHES = 512


def make_random_schedule(
    folder: Path,
    num_pairs: int,
    batch_size: int,
    seed: tuple[int, int],
    previous_leftover: Int64[np.ndarray, "r"],
    fields: Mapping[str, Any],
) -> Schedule:
    """Write a schedule of random batches; see `make_schedule` for the arguments."""
    rng = np.random.default_rng(seed)
    nodes, leftover = hold_back(num_pairs, batch_size, previous_leftover, rng)
    batches = rng.permutation(nodes).reshape(-1, batch_size)
    manifest = {"strategy": "random", "seed": seed[0], "round": seed[1], "seconds": {}, **fields}
    return write_schedule(folder, batches, leftover, manifest)


def make_schedule(
    folder: Path,
    embeddings: Embeddings,
    batch_size: int,
    temperature: float,
    config: SelectionConfig,
    seed: tuple[int, int],
    previous_leftover: Int64[np.ndarray, "r"],
    fields: Mapping[str, Any],
    map_tasks: Mapper = map,
    progress: Progress = silent,
) -> Schedule:
    """Choose batches by the strategy of `config` and write the schedule.

    Args:
        folder: where the schedule goes.
        embeddings: U and V on the unit sphere.
        batch_size: B.
        temperature: t of the loss.
        config: strategy and its settings.
        seed: (seed of the run, round).
        previous_leftover: ids that must be scheduled now.
        fields: more for the manifest, such as where the embeddings come from.
        map_tasks: where sub-problems run.
        progress: told of every stage.

    Raises:
        ConfigError: there are fewer pairs than one batch.
    """
    U, V = embeddings
    rng = np.random.default_rng(seed)
    nodes, leftover = hold_back(len(U), batch_size, previous_leftover, rng)
    if len(leftover):
        U, V = U[nodes], V[nodes]
    problem = Problem(U, V, batch_size, temperature, config, seed, map_tasks, progress)
    batches = STRATEGIES[config.strategy](problem)
    start = time.perf_counter()
    measured = measure(problem, batches, rng)
    problem.seconds["measure_s"] = time.perf_counter() - start
    manifest = {
        "strategy": config.strategy,
        "seed": seed[0],
        "round": seed[1],
        "temperature": temperature,
        "cluster_size": problem.cluster_size,
        "seconds": problem.seconds,
        **measured,
        **fields,
    }
    return write_schedule(folder, nodes[batches], leftover, manifest)


def hold_back(
    num_pairs: int,
    batch_size: int,
    previous_leftover: Int64[np.ndarray, "r"],
    rng: np.random.Generator,
) -> tuple[Int64[np.ndarray, "n"], Int64[np.ndarray, "r"]]:
    """Divide the pair ids into those that are scheduled, a multiple of B, and N mod B that are left over.

    Raises:
        ConfigError: there are fewer pairs than one batch.
    """
    if num_pairs < batch_size:
        raise ConfigError(
            f"batch_size is {batch_size}, but there are only {num_pairs} pairs; "
            "take a smaller batch or more pairs"
        )
    may_rest = np.setdiff1d(np.arange(num_pairs), previous_leftover)
    num_leftover = num_pairs % batch_size
    if len(may_rest) < num_leftover:  # only when N < 2B
        may_rest = np.arange(num_pairs)
    leftover = np.sort(rng.choice(may_rest, num_leftover, replace=False))
    return np.setdiff1d(np.arange(num_pairs), leftover), leftover


def measure(
    problem: Problem, batches: Int64[np.ndarray, "m b"], rng: np.random.Generator
) -> dict[str, float]:
    """What the manifest says about hardness: losses are means over at most 512 batches."""
    few = batches[rng.permutation(len(batches))[:_MEASURED_BATCHES]]
    randoms = random_batches(len(problem.U), problem.batch_size, len(few), rng)
    losses = batch_losses(problem.U, problem.V, few, problem.temperature)
    random_losses = batch_losses(problem.U, problem.V, randoms, problem.temperature)
    return {
        "batch_loss": float(losses.mean()),
        "random_batch_loss": float(random_losses.mean()),
        "captured_affinity": captured_affinity(problem.affinity, batches),
        "knn_recall": problem.neighbors.recall,
    }
