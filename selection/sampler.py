"""Chosen batches for a PyTorch `DataLoader(batch_sampler=...)`, also under accelerate and what is built on it.

An iterable of lists of row numbers, with a length and `set_epoch`: that is all a loader asks for, so nothing of torch
is imported. The order of an epoch is a function of (seed, epoch) alone, and where an epoch begins is told from
outside (`set_epoch(epoch, start)`), because a loader with workers reads ahead: what the sampler has given away says
nothing of what has been trained.

Legend: m batches, b batch size.
"""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from jaxtyping import Int64

from selection.checks import whole_number
from selection.errors import ConfigError
from selection.schedule import rank_slice


class HasBatches(Protocol):
    """A `Selection` or a `Schedule`; named by what they share, so that a trainer need not import faiss."""

    @property
    def batches(self) -> Int64[np.ndarray, "m b"]:
        """Row numbers."""
        ...


Batches = HasBatches | Int64[np.ndarray, "m b"]


class ScheduleBatchSampler:
    """Yields the batches of a schedule, one list of row numbers each, in another order after each `set_epoch`.

    Under accelerate, and so under the trainers of transformers and sentence-transformers, leave `rank` and
    `world_size` out: accelerate deals the batches out itself, whole ones, or slices with `split_batches=True`.

    Args:
        schedule: what `select_batches` or `open_schedule` returned, or an array of row numbers [m, B].
        rank: of this process; it gets the rank-th contiguous slice of each batch, so that a loss over all ranks
            sees the whole batch.
        world_size: number of processes; divides B.
        seed: of the order; the same on all ranks.
        shuffle: whether the order of the batches changes from epoch to epoch; what is inside them never does.

    Raises:
        ConfigError: an argument is wrong.
    """

    drop_last = True
    """For accelerate: rather skip the last batches of an epoch than give a rank one more than the others."""

    def __init__(
        self,
        schedule: Batches,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        shuffle: bool = True,
    ) -> None:
        world_size = whole_number(world_size, "world_size", least=1)
        if not 0 <= rank < world_size:
            raise ConfigError(
                f"rank: is {rank}, but must be from 0 to world_size - 1 ({world_size - 1})"
            )
        self._rank, self._world_size = rank, world_size
        self._seed, self._shuffle = whole_number(seed, "seed"), shuffle
        self.set_schedule(schedule)
        self.set_epoch(0)

    def set_schedule(self, schedule: Batches) -> None:
        """Use other batches from the next iteration on; one that has begun ends with its own.

        Raises:
            ConfigError: `schedule` holds no batches, or they do not divide over the ranks.
        """
        batches = _table(schedule)
        size, rest = divmod(batches.shape[1], self._world_size)
        if rest:
            raise ConfigError(
                f"schedule: its batches of {batches.shape[1]} do not divide over {self._world_size} ranks; "
                "choose batches of a multiple of that"
            )
        self.schedule, self.batch_size, self._batches = schedule, size, batches

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose the order of the next iterations.

        Args:
            epoch: its number.
            start: batches at its beginning to leave out, because a run that goes on has trained them already.

        Raises:
            ConfigError: one of them is no whole number, or negative.
        """
        self.epoch, self.start = whole_number(epoch, "epoch"), whole_number(start, "start")

    def __len__(self) -> int:
        return max(0, len(self._batches) - self.start)

    def __iter__(self) -> Iterator[list[int]]:
        batches, order = self._batches, self._order()[self.start :]
        return (
            rank_slice(batches[number], self._rank, self._world_size).tolist() for number in order
        )

    @property
    def sampler(self) -> "ScheduleBatchSampler":
        """Itself: where accelerate, dealing batches out to ranks, looks for `set_epoch`."""
        return self

    def _order(self) -> Int64[np.ndarray, "m"]:
        if not self._shuffle:
            return np.arange(len(self._batches))
        return np.random.default_rng([self._seed, self.epoch]).permutation(len(self._batches))


def _table(schedule: Batches) -> Int64[np.ndarray, "m b"]:
    """The batches, one row each."""
    table = np.asarray(getattr(schedule, "batches", schedule))
    if table.ndim != 2 or not table.size or table.dtype.kind not in "iu":
        raise ConfigError(
            f"schedule: holds {table.dtype} of shape {table.shape}, expected row numbers of shape (batches, batch size)"
        )
    return table
