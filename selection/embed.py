"""Embed a data set with a checkpoint: Ray actors take shards, one file of embeddings comes out of each.

A shard is the unit of work and of recovery: whoever is free takes the next one, a finished one is never made
again, and one whose worker died goes to another worker. Not Ray Data, because a shard-sized task keeps the exact
row order and costs no copy through the object store.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import ray
from jaxtyping import Float32
from ray.actor import ActorProxy
from ray.exceptions import RayActorError, RayTaskError

from selection.config import EmbedConfig
from selection.duplicates import hash_parts
from selection.embeddings import EmbeddingStore
from selection.errors import JobError
from selection.progress import Progress, silent
from selection.shards import Sample, ShardIndex

logger = logging.getLogger(__name__)

_MAX_WORKER_DEATHS = 3


class Embedder(Protocol):
    """Turns samples into their u and v.

    Attributes:
        parts: the members of a sample that u and v are made from.
    """

    parts: tuple[str, str]

    def __call__(
        self, samples: Sequence[Sample]
    ) -> tuple[Float32[np.ndarray, "b d"], Float32[np.ndarray, "b d"]]:
        """Rows of u and v on the unit sphere, in the order of `samples`."""
        ...


class ShardEmbedder:
    """Embeds one shard at a time; a plain class, which Ray makes an actor."""

    def __init__(
        self,
        make_embedder: Callable[[], Embedder],
        index_folder: Path,
        store: EmbeddingStore,
        batch_size: int,
    ) -> None:
        self._embed = make_embedder()
        self._index = ShardIndex.open(index_folder)
        self._store = store
        self._batch_size = batch_size

    def run(self, shard: int) -> int:
        """Embed a shard, write it, and return its number."""
        start, stop = self._index.shard_starts[shard : shard + 2]
        blocks = []
        for first in range(start, stop, self._batch_size):
            samples = self._index.read(np.arange(first, min(first + self._batch_size, stop)))
            blocks.append((*self._embed(samples), hash_parts(samples, self._embed.parts)))
        U, V, contents = zip(*blocks, strict=True)
        self._store.write_shard(
            shard, np.concatenate(U), np.concatenate(V), np.concatenate(contents, axis=1)
        )
        return shard


def embed_dataset(
    index: ShardIndex,
    index_folder: Path,
    store: EmbeddingStore,
    make_embedder: Callable[[], Embedder],
    config: EmbedConfig,
    progress: Progress = silent,
    stage: str = "embed",
) -> None:
    """Embed every pair of `index` into `store` and complete it; a complete store is left as it is.

    Args:
        index: the data set.
        index_folder: the index on disk, from where the workers open it.
        store: where the embeddings go.
        make_embedder: called once in each worker, to load the checkpoint there.
        config: number and size of the workers.
        progress: told after each shard.
        stage: the name of the work in `progress`.

    Raises:
        JobError: workers died again and again, or an embedding is not on the unit sphere.
    """
    if store.is_complete():
        return
    missing = store.missing_shards()
    sizes = np.diff(index.shard_starts)

    def start_worker() -> ActorProxy[ShardEmbedder]:
        options = {"num_cpus": config.cpus_per_worker, "num_gpus": config.gpus_per_worker}
        worker = ray.remote(ShardEmbedder).options(**options)
        return worker.remote(make_embedder, index_folder, store, config.batch_size)

    done = store.num_pairs - int(sizes[missing].sum())
    progress(stage, done, store.num_pairs)
    for shard in _run_on_workers(missing, start_worker, config.num_workers):
        done += int(sizes[shard])
        progress(stage, done, store.num_pairs)
    store.complete()


def _run_on_workers(shards: list[int], start_worker: Callable, num_workers: int):
    """Yield each shard when it is finished; a dead worker is replaced, its shard goes back to the queue."""
    queue = list(reversed(shards))
    workers = [start_worker() for _ in range(min(num_workers, len(queue)))]
    running = {worker.run.remote(shard := queue.pop()): (worker, shard) for worker in workers}
    num_deaths = 0
    try:
        while running:
            (finished,), _ = ray.wait(list(running), num_returns=1)
            worker, shard = running.pop(finished)
            try:
                yield ray.get(finished)
            except RayActorError as error:
                num_deaths += 1
                if num_deaths > _MAX_WORKER_DEATHS:
                    raise JobError(
                        f"embedding workers died {num_deaths} times, the last one on shard {shard}: {error}"
                    ) from error
                logger.warning("an embedding worker died on shard %d; starting another", shard)
                queue.append(shard)
                workers.append(worker := start_worker())
            if queue:
                running[worker.run.remote(shard := queue.pop())] = (worker, shard)
    except RayTaskError as error:
        raise (error.cause if isinstance(error.cause, ValueError | JobError) else error) from None
    finally:
        for worker in workers:
            ray.kill(worker)
