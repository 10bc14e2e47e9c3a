"""Embeddings that training computed anyway, gathered into a store, so that nothing is embedded a second time.

Each rank notes u and v of the pairs that it trains on (`trainer/collector.py`) and writes what it noted at every
checkpoint: rows by pair id, in ascending order, under a name that the step and the rank give. So every shard finds its
pairs in each file by bisection, whatever the number of ranks was.

Such embeddings are of different ages, up to one epoch, and see the random views of training: a memory bank.

Legend: n pairs, d dimensions.
"""

from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64

from selection.artifacts import write_array
from selection.duplicates import hash_parts
from selection.embeddings import EmbeddingStore
from selection.errors import ArtifactError
from selection.problem import Mapper
from selection.progress import Progress, silent
from selection.shards import ShardIndex

_IDS, _ROWS = ".ids.npy", ".rows.npy"
READ_AT_ONCE = 256


def collected_folder(embeddings: Path, round_number: int) -> Path:
    """Where the ranks write what they noted in a round."""
    return embeddings / f"round-{round_number:05d}" / "collected"


def write_collected(
    folder: Path,
    name: str,
    ids: Int64[np.ndarray, "n"],
    U: Float32[np.ndarray, "n d"],
    V: Float32[np.ndarray, "n d"],
) -> None:
    """Write rows of some pairs under a name of their own; whoever sees the ids finds the rows."""
    order = np.argsort(ids, kind="stable")
    write_array(folder / f"{name}{_ROWS}", np.stack([U[order], V[order]]))
    write_array(folder / f"{name}{_IDS}", ids[order])


def gather_collected(
    index: ShardIndex,
    index_folder: Path,
    folder: Path,
    store: EmbeddingStore,
    parts: tuple[str, str],
    map_tasks: Mapper,
    progress: Progress = silent,
) -> None:
    """Put everything that was noted in a round into `store`, shard by shard, and complete it.

    Args:
        index: the data set.
        index_folder: the index on disk, from where the workers open it.
        folder: what the ranks wrote.
        store: where the embeddings go; shards that are there already stay.
        parts: the members of a sample that u and v are made from.
        map_tasks: where shards are put together.
        progress: told after each shard.

    Raises:
        ArtifactError: a pair was never noted.
    """
    if store.is_complete():
        return
    missing = store.missing_shards()
    sizes = np.diff(index.shard_starts)
    done = store.num_pairs - int(sizes[missing].sum())
    gather = partial(_gather_shard, index_folder, folder, store, parts)
    for shard in map_tasks(gather, missing):
        done += int(sizes[shard])
        progress("gather", done, store.num_pairs)
    store.complete()


_open_index = lru_cache(maxsize=1)(partial(ShardIndex.open, hashes=False))
"""Opening looks at every shard, which once in a process is enough; whoever started it has hashed the index."""


def _gather_shard(
    index_folder: Path, folder: Path, store: EmbeddingStore, parts: tuple[str, str], shard: int
) -> int:
    index = _open_index(index_folder)
    start, stop = (int(end) for end in index.shard_starts[shard : shard + 2])
    both = read_collected(folder, start, stop)
    blocks = (
        np.arange(first, min(first + READ_AT_ONCE, stop))
        for first in range(start, stop, READ_AT_ONCE)
    )
    contents = [hash_parts(index.read(ids), parts) for ids in blocks]
    index.close()  # the shard, not the index
    store.write_shard(shard, both[0], both[1], np.concatenate(contents, axis=1))
    return shard


def read_collected(folder: Path, start: int, stop: int) -> Float32[np.ndarray, "2 n d"]:
    """The newest rows of the pairs with the ids `start` to `stop` - 1.

    Raises:
        ArtifactError: one of them was never noted.
    """
    both = np.empty((2, stop - start, 0), np.float32)
    is_there = np.zeros(stop - start, bool)
    for path in sorted(folder.glob(f"*{_IDS}")):
        ids = np.load(path, mmap_mode="r")
        first, last = np.searchsorted(ids, [start, stop])
        if first == last:
            continue
        rows = np.load(path.with_name(path.name.replace(_IDS, _ROWS)), mmap_mode="r")
        if not both.shape[2]:
            both = np.zeros((2, stop - start, rows.shape[2]), np.float32)
        places = ids[first:last] - start
        both[:, places] = rows[:, first:last]
        is_there[places] = True
    if not is_there.all():
        raise ArtifactError(
            f"{folder}: holds no embedding of pair {start + int(np.argmin(is_there))}; delete the checkpoints of that "
            "round and resume, or set selection.refresh.embeddings=computed in a new run_dir"
        )
    return both
