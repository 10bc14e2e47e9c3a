"""The selection of a round, in a Ray worker: all pairs at once, or by regions where one node cannot do all.

Nothing of the size of the data set lies on the driver.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from launcher.config import RunConfig
from launcher.placement import on_nodes, region_cpus, selection_cpus, to_select
from launcher.run_dir import append_line
from selection.division import read_ids
from selection.embeddings import load_contents, load_embeddings, store_blocks
from selection.examples import pick_examples, pick_examples_of_many
from selection.progress import FileProgress
from selection.ray_tasks import do_nothing, ray_map, run_remote
from selection.regional import RegionalJob, choose_regionally
from selection.schedule import Schedule, open_schedule, write_schedule
from selection.select import make_schedule
from selection.threads import thread_map

Examples = list[dict[str, Any]]

_ALONE_PAIRS = 100_000
"""Up to so many, the parts of a graph stay with the worker that selects: it cuts them in the time that others take to
start."""


@dataclass(frozen=True)
class SelectTask:
    """What the schedule of a round is made from, and where it goes."""

    folder: Path
    """Of the schedule."""

    previous_folder: Path
    """Of the schedule of the round before."""

    embeddings_folder: Path
    config: RunConfig
    temperature: float
    seed: tuple[int, int]
    leftover: np.ndarray
    fields: dict[str, Any]
    """What the manifest says beside the quality of the batches."""

    progress_file: Path
    examples_file: Path


def select_remotely(
    task: SelectTask, num_pairs: int, while_waiting: Callable[[], None] = do_nothing
) -> dict[str, Any]:
    """Make a schedule of `num_pairs` pairs in a Ray worker; returns its manifest.

    By regions, the worker needs no CPU of its own: blocks take one each, and each region as many as
    `launcher.placement.region_cpus` says. `while_waiting` is as for `selection.ray_tasks.result_of`.
    """
    selection, labels = task.config.selection, task.config.ray.selection_labels
    by_regions = selection.regions.divide(selection.strategy, num_pairs)
    return run_remote(
        _select,
        task,
        by_regions,
        num_cpus=0 if by_regions else selection_cpus(task.config),
        placement=on_nodes(labels) if by_regions else to_select(task.config),
        while_waiting=while_waiting,
    )


def _select(task: SelectTask, by_regions: bool) -> dict[str, Any]:
    make = _select_by_regions if by_regions else _select_together
    schedule, examples = make(task)
    append_line(task.examples_file, {"round": task.seed[1], "batches": examples})
    return schedule.manifest


def _select_together(task: SelectTask) -> tuple[Schedule, Examples]:
    config = task.config
    embeddings = load_embeddings(task.embeddings_folder)
    is_alone = len(embeddings[0]) <= _ALONE_PAIRS
    map_elsewhere = partial(ray_map, placement=on_nodes(config.ray.selection_labels))
    schedule = make_schedule(
        task.folder,
        embeddings,
        config.train.batch_size,
        task.temperature,
        config.selection,
        task.seed,
        task.leftover,
        task.fields,
        map_tasks=thread_map if is_alone else map_elsewhere,
        progress=FileProgress(task.progress_file),
        previous_batches=open_schedule(task.previous_folder).batches,
        contents=load_contents(task.embeddings_folder),
    )
    rng = np.random.default_rng(task.seed)
    return schedule, pick_examples(*embeddings, schedule.batches, task.temperature, rng)


def _select_by_regions(task: SelectTask) -> tuple[Schedule, Examples]:
    """Blocks sorted by region lie beside the embeddings meanwhile: as many bytes again, and 24 for each pair."""
    config = task.config
    blocks = store_blocks(task.embeddings_folder)
    job = RegionalJob(
        config.train.batch_size, task.temperature, config.selection, task.seed, task.leftover
    )
    scratch = task.embeddings_folder / "regions"
    map_blocks = partial(ray_map, placement=on_nodes(config.ray.selection_labels))
    map_regions = partial(ray_map, num_cpus=region_cpus(config), placement=to_select(config))
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        chosen = choose_regionally(
            blocks,
            job,
            scratch,
            map_blocks=map_blocks,
            map_regions=map_regions,
            progress=FileProgress(task.progress_file),
            previous_batches=open_schedule(task.previous_folder).batches,
        )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    fields = {**chosen.fields, **task.fields}
    schedule = write_schedule(task.folder, chosen.batches, chosen.leftover, fields)
    rng = np.random.default_rng(task.seed)
    read = partial(read_ids, blocks, map_blocks)
    return schedule, pick_examples_of_many(read, schedule.batches, task.temperature, rng)
