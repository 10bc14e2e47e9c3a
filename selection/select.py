"""From embeddings to a schedule: who takes part, which batches they form, and how hard those are.

Every pair is scheduled at most once. N mod B pairs are left over, chosen at random among those that were not left over
in the round before, so that no pair is left out twice in a row (unless N < 2B).

A batch is put together from groups that the strategy chose and from pairs that were drawn at random, as
`selection.hardness` says; then pairs that must not meet are moved apart.

Legend: n pairs, m batches, b batch size, c groups, k group size, d dimensions, r left over.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from selection.config import SelectionConfig
from selection.errors import ConfigError
from selection.problem import Mapper, Problem
from selection.progress import Progress, silent
from selection.quality import measure_graph, measure_losses
from selection.schedule import Schedule, write_schedule
from selection.strategies import STRATEGIES

Embeddings = tuple[Float32[np.ndarray, "n d"], Float32[np.ndarray, "n d"]]


@dataclass(frozen=True)
class Selection:
    """Chosen batches that are not written yet."""

    batches: Int64[np.ndarray, "m b"]
    leftover: Int64[np.ndarray, "r"]
    fields: dict[str, Any]
    """What the manifest will say: strategy, seed, seconds of each stage, quality."""


def make_random_schedule(
    folder: Path,
    num_pairs: int,
    batch_size: int,
    seed: tuple[int, int],
    previous_leftover: Int64[np.ndarray, "r"],
    fields: Mapping[str, Any],
) -> Schedule:
    """Write a schedule of random batches, for which no embeddings are needed; see `make_schedule`."""
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
    """Choose batches and write the schedule to `folder`; `fields` is more for its manifest. See `choose`."""
    chosen = choose(
        embeddings, batch_size, temperature, config, seed, previous_leftover, map_tasks, progress
    )
    return write_schedule(folder, chosen.batches, chosen.leftover, {**chosen.fields, **fields})


def choose(
    embeddings: Embeddings,
    batch_size: int,
    temperature: float,
    config: SelectionConfig,
    seed: tuple[int, int] = (0, 1),
    previous_leftover: Int64[np.ndarray, "r"] | None = None,
    map_tasks: Mapper = map,
    progress: Progress = silent,
) -> Selection:
    """Choose batches by the strategy of `config`.

    Args:
        embeddings: U and V on the unit sphere.
        batch_size: B.
        temperature: t of the loss.
        config: strategy and its settings.
        seed: (seed of the run, round).
        previous_leftover: ids that must be scheduled now.
        map_tasks: where sub-problems run.
        progress: told of every stage.

    Raises:
        ConfigError: there are fewer pairs than one batch, or B does not suit the settings.
    """
    U, V = embeddings
    hardness = config.hardness
    hardness.check_batch_size(batch_size)
    rng = np.random.default_rng(seed)
    if previous_leftover is None:
        previous_leftover = np.empty(0, np.int64)
    nodes, _ = hold_back(len(U), batch_size, previous_leftover, rng)
    num_random = hardness.num_random(batch_size, round_number=seed[1])
    drawn = rng.choice(nodes, num_random * (len(nodes) // batch_size), replace=False)
    others = np.setdiff1d(nodes, drawn)
    problem = Problem(
        _rows(U, others), _rows(V, others),
        batch_size, hardness.cluster_size or batch_size - num_random,
        temperature, config, seed, map_tasks, progress,
    )  # fmt: skip
    groups = STRATEGIES[config.strategy](problem) if len(others) else others.reshape(0, 1)
    batches = pack(others[groups], drawn, batch_size, num_random, rng)
    with problem.timed("measure_s"):
        quality = {
            **measure_losses(U, V, batches, temperature, rng),
            **measure_graph(problem, groups),
        }
    fields = {
        "strategy": config.strategy,
        "seed": seed[0],
        "round": seed[1],
        "temperature": temperature,
        "num_random_per_batch": num_random,
        "group_size": problem.group_size,
        "seconds": problem.seconds,
        **quality,
    }
    return Selection(batches, np.setdiff1d(np.arange(len(U)), batches), fields)


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


def pack(
    groups: Int64[np.ndarray, "c k"],
    drawn: Int64[np.ndarray, "r"],
    batch_size: int,
    num_random: int,
    rng: np.random.Generator,
) -> Int64[np.ndarray, "m b"]:
    """Put together batches of groups that are taken at random, and of `num_random` of the `drawn` ids each.

    When the strategy left nodes out there are fewer batches, and some of `drawn` find no place.
    """
    num_chosen = batch_size - num_random
    if not num_chosen:
        return drawn.reshape(-1, batch_size)
    chosen = rng.permutation(groups, axis=0).reshape(-1, num_chosen)
    extra = drawn[: len(chosen) * num_random].reshape(len(chosen), num_random)
    return np.concatenate([chosen, extra], axis=1)


def _rows(
    embeddings: Float32[np.ndarray, "n d"], nodes: Int64[np.ndarray, "m"]
) -> Float32[np.ndarray, "m d"]:
    """Those rows; no copy when it is all of them."""
    return embeddings if len(nodes) == len(embeddings) else embeddings[nodes]
