"""From embeddings to batches, on one node: who takes part, which batches they form, and how hard those are.

`selection.assembly` says who takes part and puts together batches from what the strategy chose; here one follows the
other, and the result is measured.

Legend: n pairs, m batches, b batch size, c groups, k group size, d dimensions, r left over.
"""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32, Int64, UInt64

from selection.alarms import alarms
from selection.assembly import assemble, take_all, take_part, without
from selection.config import UNGUARDED, SelectionConfig
from selection.duplicates import hash_rows, no_contents, number_contents
from selection.problem import Mapper, Problem
from selection.progress import Progress, silent
from selection.quality import measure
from selection.spectral import check_device
from selection.strategies import STRATEGIES, plan_num_batches
from selection.threads import thread_map

Embeddings = tuple[Float32[np.ndarray, "n d"], Float32[np.ndarray, "n d"]]


@dataclass(frozen=True)
class Selection:
    """Chosen batches that are not written yet."""

    batches: Int64[np.ndarray, "m b"]
    leftover: Int64[np.ndarray, "r"]
    fields: dict[str, Any]
    """What the manifest will say: strategy, seed, seconds of each stage, quality."""


def choose_together(
    embeddings: Embeddings,
    batch_size: int,
    temperature: float,
    config: SelectionConfig,
    seed: tuple[int, int],
    previous_leftover: Int64[np.ndarray, "r"],
    map_tasks: Mapper = thread_map,
    progress: Progress = silent,
    previous_batches: Int64[np.ndarray, "m0 b0"] | None = None,
    contents: UInt64[np.ndarray, "2 n"] | None = None,
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
        previous_batches: those of the round before, of the same pairs; only to tell how much of them has changed.
        contents: hashes of what both sides of each pair hold, which tell duplicates; None takes equal embeddings for
            equal contents.

    Raises:
        ConfigError: there are fewer pairs than one batch, B does not suit the settings, or so many pairs are duplicates
            or false negatives of each other that no batch can be formed.
    """
    num_pairs, hardness = len(embeddings[0]), config.hardness
    check_request(config, num_pairs, batch_size)
    if config.strategy == "spectral":
        check_device(config.spectral.device)
    rng = np.random.default_rng(seed)
    start = time.perf_counter()
    numbers = _find_duplicates(embeddings, config, contents)
    num_random = hardness.num_random(batch_size, round_number=seed[1])
    if config.strategy in UNGUARDED:
        roster = take_all(numbers)
    else:
        roster = take_part(numbers, batch_size, num_random, previous_leftover, rng)
    seconds = {"duplicates_s": time.perf_counter() - start}
    problem = Problem(
        *_rows(embeddings, roster.chosen),
        batch_size, hardness.cluster_size or batch_size - num_random,
        temperature, config, seed, map_tasks, progress, seconds, contents=numbers[roster.chosen],
    )  # fmt: skip
    assembly = assemble(problem, STRATEGIES[config.strategy], roster, rng)
    groups, batches = assembly.groups, assembly.batches
    with problem.timed("measure_s"):
        quality = measure(embeddings, batches, problem, groups, previous_batches, rng)
    fields = {
        "strategy": config.strategy,
        "seed": seed[0],
        "round": seed[1],
        "temperature": temperature,
        "batch_size": batch_size,
        "num_batches": len(batches),
        "num_random_per_batch": num_random,
        "group_size": problem.group_size,
        "num_duplicates": int((numbers >= 0).any(axis=1).sum()),
        "num_moved": assembly.num_moved,
        "num_held_back": roster.num_held_back + assembly.num_held_back,
        "seconds": problem.seconds,
        **quality,
    }
    fields["alarms"] = alarms(fields, config)
    return Selection(batches, without(np.arange(num_pairs), batches), fields)


def check_request(config: SelectionConfig, num_pairs: int, batch_size: int) -> None:
    """Tell what is wrong before the search, which may take minutes.

    Raises:
        ConfigError: settings, strategy, pairs and batch size do not go together, or a package is missing.
    """
    config.hardness.check_batch_size(batch_size)
    config.hardness.check_strategy(config.strategy)
    plan_num_batches(config, num_pairs, batch_size)


def _rows(embeddings: Embeddings, nodes: Int64[np.ndarray, "m"]) -> Embeddings:
    """Those rows; no copy when it is all of them, and one of single-view data."""
    U, V = embeddings
    if len(nodes) == len(U):
        return embeddings
    rows = U[nodes]
    return rows, rows if V is U else V[nodes]


def _find_duplicates(
    embeddings: Embeddings,
    config: SelectionConfig,
    contents: UInt64[np.ndarray, "2 n"] | None,
) -> Int32[np.ndarray, "n 2"]:
    """Numbers of shared contents; none when nobody looks for duplicates."""
    if not config.hardness.looks_for_duplicates(config.strategy):
        return no_contents(len(embeddings[0]))
    return number_contents(hash_rows(*embeddings) if contents is None else contents)
