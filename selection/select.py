"""From embeddings to a schedule: batches are chosen, on one node or region by region, and written.

Legend: n pairs, m batches, b batch size, d dimensions, r left over.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt64

from selection.assembly import hold_back
from selection.blocks import array_blocks
from selection.choose import Embeddings, Selection, choose_together
from selection.config import SelectionConfig
from selection.problem import Mapper
from selection.progress import Progress, silent
from selection.regional import RegionalJob, choose_regionally
from selection.schedule import Schedule, write_schedule
from selection.spectral import check_device
from selection.threads import thread_map


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
    map_tasks: Mapper = thread_map,
    progress: Progress = silent,
    previous_batches: Int64[np.ndarray, "m0 b0"] | None = None,
    contents: UInt64[np.ndarray, "2 n"] | None = None,
) -> Schedule:
    """Choose batches and write the schedule to `folder`; `fields` is more for its manifest. See `choose`."""
    chosen = choose(
        embeddings, batch_size, temperature, config, seed, previous_leftover, map_tasks, progress,
        previous_batches, contents,
    )  # fmt: skip
    return write_schedule(folder, chosen.batches, chosen.leftover, {**chosen.fields, **fields})


def choose(
    embeddings: Embeddings,
    batch_size: int,
    temperature: float,
    config: SelectionConfig,
    seed: tuple[int, int] = (0, 1),
    previous_leftover: Int64[np.ndarray, "r"] | None = None,
    map_tasks: Mapper = thread_map,
    progress: Progress = silent,
    previous_batches: Int64[np.ndarray, "m0 b0"] | None = None,
    contents: UInt64[np.ndarray, "2 n"] | None = None,
) -> Selection:
    """Choose batches in this process, region by region if there are more pairs than a region may have.

    Arguments as for `selection.choose.choose_together`. Embeddings that are mapped from files are then read in parts.

    Raises:
        ConfigError: there are fewer pairs than one batch, B does not suit the settings, or so many pairs are duplicates
            or false negatives of each other that no batch can be formed.
    """
    U, V = embeddings
    if previous_leftover is None:
        previous_leftover = np.empty(0, np.int64)
    if config.regions.divide(config.strategy, len(U)):
        if config.strategy == "spectral":
            check_device(config.spectral.device)  # before all embeddings are read
        job = RegionalJob(batch_size, temperature, config, seed, previous_leftover)
        return choose_regionally(
            array_blocks(U, V, contents), job, progress=progress, previous_batches=previous_batches
        )
    return choose_together(
        embeddings, batch_size, temperature, config, seed, previous_leftover, map_tasks, progress,
        previous_batches, contents,
    )  # fmt: skip
