"""The selection of a round by regions, for more pairs than one node can do; Ray carries each step to where room is."""

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from launcher.config import RunConfig
from launcher.ray_cluster import largest_node_cpus, on_nodes
from launcher.run_dir import append_line
from selection.division import read_ids
from selection.embeddings import store_blocks
from selection.examples import pick_examples_of_many
from selection.progress import FileProgress
from selection.ray_tasks import ray_map
from selection.regional import RegionalJob, choose_regionally
from selection.schedule import open_schedule, write_schedule


def select_by_regions(
    folder: Path,
    previous_folder: Path,
    embeddings_folder: Path,
    config: RunConfig,
    temperature: float,
    seed: tuple[int, int],
    leftover: np.ndarray,
    fields: dict[str, Any],
    progress_file: Path,
    examples_file: Path,
) -> dict[str, Any]:
    """Make a schedule in a Ray worker of no CPU of its own: blocks take one CPU each, regions a whole node each.

    Blocks sorted by region lie beside the embeddings while it works: as many bytes again, and 24 for each pair.
    """
    blocks = store_blocks(embeddings_folder)
    job = RegionalJob(config.train.batch_size, temperature, config.selection, seed, leftover)
    scratch = embeddings_folder / "regions"
    labels = config.ray.selection_labels
    map_blocks = partial(ray_map, placement=on_nodes(labels))
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        chosen = choose_regionally(
            blocks,
            job,
            scratch,
            map_blocks=map_blocks,
            map_regions=partial(map_blocks, num_cpus=largest_node_cpus(labels)),
            progress=FileProgress(progress_file),
            previous_batches=open_schedule(previous_folder).batches,
        )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    schedule = write_schedule(folder, chosen.batches, chosen.leftover, {**chosen.fields, **fields})
    rng = np.random.default_rng(seed)
    examples = pick_examples_of_many(
        partial(read_ids, blocks, map_blocks), schedule.batches, temperature, rng
    )
    append_line(examples_file, {"round": seed[1], "batches": examples})
    return schedule.manifest
