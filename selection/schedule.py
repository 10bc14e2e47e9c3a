"""The schedule: what selection promises and training consumes, the contract between the two.

A schedule is an artifact of two arrays: `batches.npy`, int64 [num_batches, B], in which every pair id occurs at
most once, and `leftover.npy`, int64, the ids that found no place and go first in the next round. Both map into
memory. Neither depends on the number of ranks: rank i of W takes the i-th contiguous slice of B / W ids of each
batch, so that a run goes on with the same batches when the number of ranks changes.

The one exception is the strategy `all`, whose batches share ids; its manifest says `ids_repeat`.

Legend: n pairs, m batches, b batch size.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from selection.artifacts import (
    MANIFEST,
    atomic_folder,
    hash_json,
    read_manifest,
    write_array,
    write_manifest,
)
from selection.errors import ArtifactError, ConfigError

KIND = "schedule"
_ARRAYS = ["batches.npy", "leftover.npy"]
_FIELDS = ("seed", "round", "strategy")
_REPEATS_IDS = "all"  # the strategy that does


@dataclass(frozen=True)
class Schedule:
    """Batches of pair ids, with the manifest that says where they come from."""

    batches: Int64[np.ndarray, "m b"]
    leftover: Int64[np.ndarray, "r"]
    manifest: dict[str, Any]

    @property
    def num_batches(self) -> int:
        """Batches in one epoch."""
        return len(self.batches)

    @property
    def content_hash(self) -> str:
        """Hash of the two arrays."""
        return hash_json([entry["hash"] for entry in self.manifest["files"].values()])

    def batch_at(self, step: int) -> Int64[np.ndarray, "b"]:
        """Ids of the batch that training takes at `step` of the round, counted over its epochs."""
        epoch, position = divmod(step, self.num_batches)
        return self.batches[self.epoch_order(epoch)[position]]

    def epoch_order(self, epoch: int) -> Int64[np.ndarray, "m"]:
        """Order of the batches in an epoch, a function of (seed, round, epoch) alone."""
        key = [self.manifest["seed"], self.manifest["round"], epoch]
        return np.random.default_rng(key).permutation(self.num_batches)


def rank_slice(
    batch: Int64[np.ndarray, "b"],
    rank: int,
    world_size: int,
) -> Int64[np.ndarray, "b_local"]:
    """The ids of `batch` that `rank` reads: its contiguous slice of b / world_size."""
    size, rest = divmod(len(batch), world_size)
    if rest:
        raise ValueError(f"a batch of {len(batch)} does not divide over {world_size} ranks")
    return batch[rank * size : (rank + 1) * size]


def check_batches(
    batches: Int64[np.ndarray, "m b"],
    leftover: Int64[np.ndarray, "r"],
    num_pairs: int,
    ids_repeat: bool = False,
) -> None:
    """Check that the ids of `batches` and `leftover` are 0 .. num_pairs - 1, each exactly once.

    Args:
        batches: pair ids by batch.
        leftover: pair ids in no batch.
        num_pairs: how many there are.
        ids_repeat: whether an id may be in several batches, though only once in each.

    Raises:
        ValueError: an id is missing, repeated or out of range; a strategy is defective.
    """
    scheduled = batches.ravel()
    if ids_repeat:
        is_twice = np.diff(np.sort(batches, axis=1), axis=1) == 0
        if is_twice.any():
            raise ValueError(f"batch {int(is_twice.any(axis=1).argmax())} holds an id twice")
        scheduled = np.unique(batches)
    ids = np.concatenate([scheduled, leftover])
    if len(ids) != num_pairs or ids.min() < 0 or ids.max() >= num_pairs:
        raise ValueError(f"{len(ids)} ids in batches and leftover, expected 0 to {num_pairs - 1}")
    counts = np.bincount(ids, minlength=num_pairs)
    if counts.max() > 1:
        raise ValueError(f"id {int(counts.argmax())} is scheduled {int(counts.max())} times")


def write_schedule(
    folder: Path | str,
    batches: Int64[np.ndarray, "m b"],
    leftover: Int64[np.ndarray, "r"],
    fields: Mapping[str, Any],
) -> Schedule:
    """Write a schedule and open it.

    Args:
        folder: where; a schedule that is there already is replaced.
        batches: pair ids by batch.
        leftover: pair ids in no batch.
        fields: what the manifest says beside the arrays: at least `seed`, `round` and `strategy`.

    Raises:
        ConfigError: the folder holds something else.
        ValueError: ids are missing, repeated or out of range, or a field is missing.
    """
    folder = Path(folder)
    check_place(folder)
    if missing := [field for field in _FIELDS if field not in fields]:
        raise ValueError(f"fields: {', '.join(missing)} missing")
    ids_repeat = fields["strategy"] == _REPEATS_IDS
    num_scheduled = len(np.unique(batches)) if ids_repeat else batches.size
    num_pairs = num_scheduled + len(leftover)
    check_batches(batches, leftover, num_pairs, ids_repeat)
    counts = {
        "ids_repeat": ids_repeat,
        "num_pairs": num_pairs,
        "num_batches": len(batches),
        "batch_size": batches.shape[1],
        "num_leftover": len(leftover),
    }
    with atomic_folder(folder) as temporary:
        write_array(temporary / "batches.npy", batches.astype(np.int64, copy=False))
        write_array(temporary / "leftover.npy", leftover.astype(np.int64, copy=False))
        write_manifest(temporary, KIND, _ARRAYS, {**counts, **fields})
    return open_schedule(folder)


def check_place(folder: Path, field: str = "folder") -> None:
    """Refuse a place where more would be lost than a schedule, perhaps a damaged one; `field` is what names it.

    Raises:
        ConfigError: something else is there.
    """
    if folder.is_dir():
        is_free = {path.name for path in folder.iterdir()} <= {*_ARRAYS, MANIFEST}
    else:
        is_free = not folder.exists()
    if not is_free:
        raise ConfigError(f"{field}: {folder} exists and is no schedule; choose another folder")


def open_schedule(
    folder: Path | str, expected: Mapping[str, Any] | None = None, hashes: bool = True
) -> Schedule:
    """Open and verify the schedule in `folder`; its arrays are mapped.

    Args:
        folder: what `write_schedule` filled.
        expected: fields of its manifest that must agree.
        hashes: whether to read the arrays once to compare their hashes; sizes are always compared.

    Raises:
        ArtifactError: it is incomplete, altered, or a field differs from `expected`.
    """
    folder = Path(folder)
    manifest = read_manifest(folder, KIND, expected, hashes)
    if missing := [name for name in _ARRAYS if "hash" not in manifest["files"].get(name, {})]:
        raise ArtifactError(f"{folder / MANIFEST}: has no hash of {missing[0]}; make it again")
    if missing := [field for field in _FIELDS if field not in manifest]:
        raise ArtifactError(f"{folder / MANIFEST}: has no {missing[0]}; make it again")
    batches = np.load(folder / "batches.npy", mmap_mode="r")
    leftover = np.load(folder / "leftover.npy", mmap_mode="r")
    return Schedule(batches, leftover, manifest)


def count_batches(
    schedules: Path, round_number: int, expected: Mapping[str, Any] | None = None
) -> int:
    """Batches of a round that has a schedule; errors as for `open_schedule`."""
    folder = schedule_folder(schedules, round_number)
    return read_manifest(folder, KIND, expected, hashes=False)["num_batches"]


def schedule_folder(schedules: Path, round_number: int) -> Path:
    """Where the schedule of a round lies: `schedules/round-00003`."""
    return schedules / f"round-{round_number:05d}"
