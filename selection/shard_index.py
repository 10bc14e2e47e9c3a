"""Reading samples by id from the tars that `selection.shards` has indexed.

The id of a sample is its row in its shard plus the number of samples in the shards before. A batch
is read with `os.pread`: ids grouped by shard, sorted by offset, neighbouring ranges fetched
together. Nothing is decoded or unpickled.

Open, an index holds O(shards) memory; layouts are memory-mapped, and maps and descriptors live in
a cache of bounded size. A read of `b` samples costs at most one system call per part, and holds at
most `READ_BLOCK_BYTES`, or one part, beside the samples themselves.

Shapes: `b` ids asked for, `p` parts to read, `s` shards.
"""

import itertools
import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from selection.artifacts import read_manifest
from selection.errors import ArtifactError
from selection.tar_scan import TarLayout

Sample = dict[str, Any]  # extension -> bytes, and "__key__" -> str

INDEX_KIND = "index"

_MAX_OPEN_SHARDS = 128  # two descriptors each; the usual limit of a process is 1,024
_GAP_BYTES = 64 << 10  # reading this much for nothing costs less than another system call
READ_BLOCK_BYTES = 16 << 20


class ShardIndex:
    """N numbered samples in tar shards; picklable, so that Ray and DataLoader workers can read.

    Attributes:
        shard_paths: the tars, in the order of the ids.
        shard_starts: id of the first sample of each shard, then N.
        content_hash: of the names, sizes and sample layouts of the shards; the folder does not
            matter.
    """

    shard_paths: list[Path]
    shard_starts: Int64[np.ndarray, "s+1"]
    content_hash: str

    def __init__(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        """Use `open` instead, which verifies what it opens."""
        self._folder = folder
        self._records: Sequence[Mapping[str, Any]] = manifest["shards"]
        self._open_shards: OrderedDict[int, _OpenShard] = OrderedDict()
        self.shard_paths = [Path(record["path"]) for record in self._records]
        counts = [record["num_samples"] for record in self._records]
        self.shard_starts = np.cumsum([0, *counts], dtype=np.int64)
        self.content_hash = manifest["content_hash"]

    @classmethod
    def open(cls, folder: Path, hashes: bool = True) -> "ShardIndex":
        """Open the index in `folder` and verify it.

        Args:
            folder: what `build_index` filled.
            hashes: whether to hash the index files; sizes, and size and mtime of every shard, are
                always compared.

        Raises:
            ArtifactError: the index is incomplete or altered, or a shard is missing or not the one
                that was indexed.
        """
        manifest = read_manifest(folder, INDEX_KIND, hashes=hashes)
        for record in manifest["shards"]:
            _verify_shard(folder, record)
        return cls(folder.absolute(), manifest)

    def __len__(self) -> int:
        return int(self.shard_starts[-1])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open_shards": OrderedDict()}  # descriptors do not travel

    def locate(
        self, ids: Int64[np.ndarray, "b"]
    ) -> tuple[Int64[np.ndarray, "b"], Int64[np.ndarray, "b"]]:
        """Find shard and row of each id.

        Raises:
            IndexError: an id is negative, or N or more.
        """
        outside = ids[(ids < 0) | (ids >= len(self))]
        if len(outside):
            raise IndexError(f"sample id {outside[0]} is outside 0..{len(self) - 1}")
        shard_ids = np.searchsorted(self.shard_starts, ids, side="right") - 1
        return shard_ids, ids - self.shard_starts[shard_ids]

    def read(self, ids: Int64[np.ndarray, "b"]) -> list[Sample]:
        """Read samples, in the order of `ids`; an id may come more than once.

        Raises:
            IndexError: an id is negative, or N or more.
            ArtifactError: a shard has shrunk since it was opened.
        """
        shard_ids, rows = self.locate(ids)
        samples: list[Sample] = [{} for _ in ids]
        for shard_id in np.unique(shard_ids):
            positions = np.flatnonzero(shard_ids == shard_id)
            wanted, inverse = np.unique(rows[positions], return_inverse=True)
            found = self._open_shard(int(shard_id)).read(wanted)
            for position, which in zip(positions, inverse, strict=True):
                samples[position] = dict(found[which])
        return samples

    def close(self) -> None:
        """Close every descriptor; a later read opens what it needs again."""
        while self._open_shards:
            self._open_shards.popitem()[1].close()

    def _open_shard(self, shard_id: int) -> "_OpenShard":
        shard = self._open_shards.get(shard_id)
        if shard is None:
            if len(self._open_shards) >= _MAX_OPEN_SHARDS:
                self._open_shards.popitem(last=False)[1].close()
            shard = _OpenShard.open(
                self._folder / f"shard-{shard_id:06d}.npy", self._records[shard_id]
            )
            self._open_shards[shard_id] = shard
        self._open_shards.move_to_end(shard_id)
        return shard


@dataclass(frozen=True)
class _OpenShard:
    """One tar, open for reading, and its layout."""

    path: Path
    descriptor: int
    layout: TarLayout

    @classmethod
    def open(cls, index_file: Path, record: Mapping[str, Any]) -> "_OpenShard":
        packed = np.load(index_file, mmap_mode="r").view(np.ndarray)
        extensions = tuple(record["extensions"])
        layout = TarLayout.unpack(packed, record["num_samples"], record["num_parts"], extensions)
        path = Path(record["path"])
        return cls(path, os.open(path, os.O_RDONLY), layout)

    def close(self) -> None:
        os.close(self.descriptor)

    def read(self, rows: Int64[np.ndarray, "r"]) -> list[Sample]:
        """Read the samples of `rows`; these are distinct and ascend, hence so do their offsets."""
        first_parts = self.layout.samples["first_part"]
        starts, stops = first_parts[rows].astype(np.int64), first_parts[rows + 1].astype(np.int64)
        parts = self.layout.parts[_ranges(starts, stops)]
        payloads = self._read_ranges(
            parts["offset"].astype(np.int64), parts["num_bytes"].astype(np.int64)
        )
        names = (self.layout.extensions[extension] for extension in parts["extension"])
        samples: list[Sample] = []
        for row, num_parts in zip(rows.tolist(), (stops - starts).tolist(), strict=True):
            sample: Sample = {"__key__": self.layout.key(row)}
            for _ in range(num_parts):
                sample[next(names)] = next(payloads)
            samples.append(sample)
        return samples

    def _read_ranges(
        self, offsets: Int64[np.ndarray, "p"], sizes: Int64[np.ndarray, "p"]
    ) -> Iterator[bytes]:
        """Yield the bytes of every range, in order; offsets ascend."""
        for block in coalesce(offsets, sizes):
            start = int(offsets[block.start])
            stop = int(offsets[block.stop - 1] + sizes[block.stop - 1])
            data = self._pread(start, stop - start)
            for offset, size in zip(offsets[block] - start, sizes[block], strict=True):
                yield data[offset : offset + size]

    def _pread(self, offset: int, num_bytes: int) -> bytes:
        pieces = []
        while num_bytes:
            piece = os.pread(self.descriptor, num_bytes, offset)  # may return less than asked for
            if not piece:
                raise ArtifactError(
                    f"{self.path}: found the end at byte {offset}, expected {num_bytes} bytes "
                    f"more; restore the shard or index it again"
                )
            pieces.append(piece)
            offset, num_bytes = offset + len(piece), num_bytes - len(piece)
        return b"".join(pieces)


def coalesce(
    offsets: Int64[np.ndarray, "p"],
    sizes: Int64[np.ndarray, "p"],
    gap_bytes: int = _GAP_BYTES,
    block_bytes: int = READ_BLOCK_BYTES,
) -> list[slice]:
    """Group neighbouring byte ranges that one system call should fetch.

    Args:
        offsets: where each range starts; ascending, ranges do not overlap.
        sizes: bytes of each range.
        gap_bytes: ranges further apart than this are read on their own.
        block_bytes: ranges that start in different multiples of this are, too, which bounds a
            block.

    Returns:
        Slices of the ranges, in order, covering all of them.
    """
    gaps = offsets[1:] - (offsets[:-1] + sizes[:-1])
    cuts = (gaps > gap_bytes) | (np.diff(offsets // block_bytes) != 0)
    edges = [0, *(np.flatnonzero(cuts) + 1).tolist(), len(offsets)]
    return [slice(start, stop) for start, stop in itertools.pairwise(edges)]


def _ranges(
    starts: Int64[np.ndarray, "r"], stops: Int64[np.ndarray, "r"]
) -> Int64[np.ndarray, "p"]:
    """`arange(start, stop)` of every row, one after the other."""
    lengths = stops - starts
    before = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) + np.repeat(starts - before, lengths)


def _verify_shard(folder: Path, record: Mapping[str, Any]) -> None:
    path = Path(record["path"])
    expected = (record["bytes"], record["mtime_ns"])
    found = None
    if path.is_file():
        status = path.stat()
        found = (status.st_size, status.st_mtime_ns)
    if found != expected:
        is_now = "nothing" if found is None else f"{found[0]} bytes, mtime {found[1]} ns"
        raise ArtifactError(
            f"{path}: found {is_now}, expected {expected[0]} bytes, mtime {expected[1]} ns; "
            f"restore the shard or index the shards again into {folder}"
        )
