"""Embed data sets with a checkpoint: Ray actors take shards, one file of embeddings comes out of each.

A shard is the unit of work and of recovery: whoever is free takes the next one, a finished one is never made
again, and one whose worker died goes to another worker. Not Ray Data, because a shard-sized task keeps the exact
row order and costs no copy through the object store.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import ray
from jaxtyping import Float32, UInt64
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayError, RayTaskError

from selection.config import EmbedConfig
from selection.duplicates import hash_parts
from selection.embeddings import EmbeddingStore
from selection.errors import JobError
from selection.progress import Progress, silent
from selection.ray_tasks import POLL_S, Placement, do_nothing, get_result
from selection.shards import Sample, ShardIndex
from selection.threads import in_flight

logger = logging.getLogger(__name__)

_MAX_WORKER_DEATHS = 3
"""On one shard; or in all, for each worker."""


class Embedder(Protocol):
    """Turns samples into their u and v.

    Attributes:
        parts: the members of a sample that u and v are made from.
    """

    parts: tuple[str, str]

    def collate(self, samples: Sequence[Sample]) -> Any:
        """What can be done without the model: decode pictures, tokenize texts; several threads do it at once."""
        ...

    def embed_batch(
        self, batch: Any
    ) -> tuple[Float32[np.ndarray, "b d"], Float32[np.ndarray, "b d"]]:
        """Rows of u and v on the unit sphere, in the order of the samples that were collated."""
        ...


class Source(NamedTuple):
    """A data set to embed."""

    index_folder: Path
    """Its index, which the workers open."""

    store: EmbeddingStore
    """Where its embeddings go."""


class Shard(NamedTuple):
    """A shard of one of several sources."""

    source: int
    number: int


class ShardEmbedder:
    """Embeds one shard at a time; a plain class, which Ray makes an actor.

    What may fail is left to `open`: Ray takes an error in a constructor for the death of the process.
    """

    def __init__(
        self,
        make_embedder: Callable[[], Embedder],
        sources: Sequence[Source],
        batch_size: int,
        num_threads: int,
    ) -> None:
        self._make_embedder = make_embedder
        self._sources = sources
        self._open_index = cache(partial(ShardIndex.open, hashes=False))
        self._batch_size = batch_size
        self._num_threads = num_threads

    def open(self) -> None:
        """Load the checkpoint, which whoever started this has verified.

        Raises:
            ArtifactError: it was altered meanwhile.
        """
        self._embedder = self._make_embedder()

    def run(self, shard: Shard) -> Shard:
        """Embed a shard, write it, and return it.

        While the model, on a GPU perhaps, embeds a batch, threads decode the next ones.

        Raises:
            ArtifactError: the shard or its index was altered.
            JobError: an embedding is not on the unit sphere.
        """
        source = self._sources[shard.source]
        index = self._open_index(source.index_folder)
        start, stop = index.shard_starts[shard.number : shard.number + 2]
        ids = (
            np.arange(first, min(first + self._batch_size, stop))
            for first in range(start, stop, self._batch_size)
        )
        rows = []
        with ThreadPoolExecutor(self._num_threads) as pool:
            prepared = in_flight(
                partial(pool.submit, self._prepare),
                Future.result,
                map(index.read, ids),
                2 * self._num_threads,
            )
            for batch, contents in prepared:
                rows.append((*self._embedder.embed_batch(batch), contents))
        U, V, contents = zip(*rows, strict=True)
        source.store.write_shard(
            shard.number, np.concatenate(U), np.concatenate(V), np.concatenate(contents, axis=1)
        )
        return shard

    def _prepare(self, samples: Sequence[Sample]) -> tuple[Any, UInt64[np.ndarray, "2 b"]]:
        return self._embedder.collate(samples), hash_parts(samples, self._embedder.parts)


def embed_datasets(
    sources: Sequence[Source],
    make_embedder: Callable[[], Embedder],
    config: EmbedConfig,
    progress: Progress = silent,
    stage: str = "embed",
    placement: Placement | None = None,
    while_waiting: Callable[[], None] = do_nothing,
) -> None:
    """Embed every pair of each source into its store and complete it; a complete store is left as it is.

    The workers serve all sources, because their start takes longer than a small data set.

    Args:
        sources: one after the other.
        make_embedder: called once in each worker, to load the checkpoint there.
        config: number and size of the workers.
        progress: told after each shard.
        stage: the name of the work in `progress`.
        placement: on which nodes the workers may run; None: on any.
        while_waiting: called again and again; when it raises, the workers are ended.

    Raises:
        ArtifactError: a shard or the checkpoint is not what it was.
        JobError: workers died again and again, or an embedding is not on the unit sphere.
    """
    sources = [source for source in sources if not source.store.is_complete()]
    if not sources:
        return
    sizes = [source.store.shard_sizes for source in sources]
    missing = [
        Shard(place, number)
        for place, source in enumerate(sources)
        for number in source.store.missing_shards()
    ]

    def start_worker() -> ActorHandle:
        options = {"num_cpus": config.cpus_per_worker, "num_gpus": config.gpus_per_worker}
        worker: Any = ray.remote(ShardEmbedder).options(**options, **(placement or {}))
        num_threads = max(1, int(config.cpus_per_worker))
        return worker.remote(make_embedder, sources, config.batch_size, num_threads)

    total = sum(map(sum, sizes))
    done = total - sum(sizes[shard.source][shard.number] for shard in missing)
    progress(stage, done, total)
    for shard in _Pool(missing, start_worker, config.num_workers, while_waiting).run():
        done += sizes[shard.source][shard.number]
        progress(stage, done, total)
    for source in sources:
        source.store.complete()


class _Pool:
    """Workers side by side; a dead one is replaced, its shard goes back to the queue.

    A worker gets a shard when it is there, not before: where a lost node leaves no place for a new one, the others do
    its work.
    """

    def __init__(
        self,
        shards: list[Shard],
        start_worker: Callable[[], ActorHandle],
        num_workers: int,
        while_waiting: Callable[[], None],
    ) -> None:
        self._while_waiting = while_waiting
        self._queue = list(reversed(shards))
        self._start_worker = start_worker
        self._num_workers = min(num_workers, len(shards))
        self._workers: list[ActorHandle] = []
        self._idle: list[ActorHandle] = []
        self._running: dict[ray.ObjectRef, tuple[ActorHandle, Shard | None]] = {}
        self._deaths: Counter[Shard | None] = Counter()

    def run(self) -> Iterator[Shard]:
        """Yield each shard when it is finished."""
        num_left = len(self._queue)
        try:
            for _ in range(self._num_workers):
                self._start()
            while num_left:
                finished = self._wait()
                self._hand_out()
                if finished is not None:
                    num_left -= 1
                    yield finished
        finally:
            for worker in self._workers:
                ray.kill(worker)

    def _start(self) -> None:
        self._workers.append(worker := self._start_worker())
        self._running[worker.open.remote()] = (worker, None)

    def _hand_out(self) -> None:
        while self._queue and self._idle:
            worker, shard = self._idle.pop(), self._queue.pop()
            self._running[worker.run.remote(shard)] = (worker, shard)

    def _wait(self) -> Shard | None:
        """The shard that is finished, or None: a worker came, or died."""
        finished: list[ray.ObjectRef] = []
        while not finished:
            self._while_waiting()
            finished, _ = ray.wait(list(self._running), num_returns=1, timeout=POLL_S)
        (future,) = finished
        worker, shard = self._running.pop(future)
        try:
            get_result(future)
        except RayActorError as error:
            # It may only be out of reach, and would keep the place of the next one.
            ray.kill(worker)
            self._replace(shard, error)
            return None
        except RayTaskError as error:
            if shard is not None:
                raise
            ray.kill(worker)  # a GPU of that node may be broken: another worker may fare better
            self._replace(None, error)
            return None
        self._idle.append(worker)
        return shard

    def _replace(self, shard: Shard | None, error: RayError) -> None:
        """Start another worker for one that died on `shard`; None: at its start.

        Raises:
            JobError: a lost node takes many workers with it, but these died too often for that.
        """
        where = "at its start" if shard is None else f"on shard {shard.number}"
        self._deaths[shard] += 1
        on_shard = 0 if shard is None else self._deaths[shard]
        if max(on_shard, self._deaths.total() / self._num_workers) > _MAX_WORKER_DEATHS:
            raise JobError(
                f"embedding workers died {self._deaths.total()} times, the last one {where}: {error}"
            ) from error
        logger.warning("an embedding worker died %s; starting another", where)
        if shard is not None:
            self._queue.append(shard)
        self._start()
