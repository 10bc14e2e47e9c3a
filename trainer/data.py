"""From a schedule to batches: each rank reads its slice of every batch, in order, by id.

A DataLoader whose sampler yields one `RankStep` after the other: this rank's ids, and the draw that the random views
of the step are a function of (`trainer/views`). With `reader_processes` at 0 the rank itself reads and tokenizes:
CPU ranks keep every core busy, and a process that reads ahead would take its time from them and the memory of one
more interpreter. GPU ranks leave the CPU idle and want a few.

Memory: one order of the batches per epoch, never one per step, and `_PREFETCHED_BATCHES` batches, or two per process.
"""

import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from torch.utils.data import DataLoader, Dataset, Sampler

from selection.schedule import Schedule, rank_slice
from trainer.encoders import Batch, Collate, PairReader
from trainer.views import Draw

_PREFETCHED_BATCHES = 4


class RankStep(NamedTuple):
    """What a rank reads for one step."""

    ids: list[int]
    draw: Draw


class RankDataset(Dataset[Batch]):
    """Batches of tensors by `RankStep`; a whole slice is read in one go."""

    def __init__(self, reader: PairReader, collate: Collate) -> None:
        self._reader = reader
        self._collate = collate

    def __getitem__(self, step: RankStep) -> Batch:
        samples = self._reader.read(np.asarray(step.ids, dtype=np.int64))
        return self._collate(samples, step.draw)


class RankSampler(Sampler[RankStep]):
    """What a rank reads at each step of a round."""

    def __init__(
        self, schedule: Schedule, first_step: int, stop_step: int, rank: int, world_size: int
    ) -> None:
        """Choose the part of the round.

        Args:
            schedule: of the round.
            first_step: first step of the round to yield, counted over its epochs.
            stop_step: one past the last.
            rank: which slice of each batch.
            world_size: number of slices.
        """
        self._schedule = schedule
        self._steps = range(first_step, stop_step)
        self._rank = rank
        self._world_size = world_size

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[RankStep]:
        seed, round_number = self._schedule.manifest["seed"], self._schedule.manifest["round"]
        for step, batch in zip(self._steps, _batches(self._schedule, self._steps), strict=True):
            ids = rank_slice(batch, self._rank, self._world_size).tolist()
            yield RankStep(ids, (seed, round_number, step))


def _batches(schedule: Schedule, steps: range) -> Iterator[np.ndarray]:
    """`schedule.batch_at` of every step; an epoch's order is made once, not at each of its steps."""
    known_epoch, order = -1, np.empty(0, dtype=np.int64)
    for step in steps:
        epoch, position = divmod(step, schedule.num_batches)
        if epoch != known_epoch:
            known_epoch, order = epoch, schedule.epoch_order(epoch)
        yield schedule.batches[order[position]]


def round_loader(
    reader: PairReader,
    collate: Collate,
    sampler: RankSampler,
    reader_processes: int = 0,
    pin_memory: bool = False,
) -> Iterable[Batch]:
    """Batches of tensors in the order of `sampler`.

    Args:
        reader: the training pairs.
        collate: of the encoder.
        sampler: of this rank.
        reader_processes: processes that read ahead; 0 reads when a batch is asked for.
        pin_memory: whether to place batches where a GPU can fetch them itself.
    """
    ahead = {}
    if reader_processes:
        # Forked processes would inherit the threads and sockets of gloo and CUDA in an unusable state.
        ahead = {
            "num_workers": reader_processes,
            "multiprocessing_context": "forkserver",
            "prefetch_factor": max(2, _PREFETCHED_BATCHES // reader_processes),
        }
    return DataLoader(
        RankDataset(reader, collate),
        batch_size=None,  # what the dataset gives is a batch already
        sampler=sampler,
        pin_memory=pin_memory,
        **ahead,
    )


class Stopwatch:
    """Adds up the seconds that an iterator makes its consumer wait."""

    def __init__(self) -> None:
        self.waited_s = 0.0

    def time(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield `batches`, timing each."""
        iterator = iter(batches)
        while True:
            start = time.perf_counter()
            batch = next(iterator, None)
            self.waited_s += time.perf_counter() - start
            if batch is None:
                return
            yield batch
