"""Pairs in blocks: consecutive ones that are read together, wherever they lie, so that nobody has to hold all.

A block is a shard of the store of embeddings, or some rows of two arrays that may be mapped from files. A *piece* is
some rows of a block; pieces are small, travel to other machines, and are read there. Blocks that were sorted by region
(`SortedBlock`) have the pairs of one region in a row, so that who reads a region reads nothing else.

Legend: n pairs, d dimensions.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Float, Float32, Int32, Int64, UInt64

from selection.artifacts import write_array

_ROWS_PER_BLOCK = 1 << 16


class Rows(NamedTuple):
    """Some pairs, ids ascending."""

    ids: Int64[np.ndarray, "n"]
    U: Float[np.ndarray, "n d"]
    V: Float[np.ndarray, "n d"]
    contents: UInt64[np.ndarray, "2 n"] | None
    """Hashes of what both sides hold, see `selection.duplicates`; None where only the embeddings are known."""


class Readable(Protocol):
    """Something with rows."""

    def read(self, rows: slice | Int64[np.ndarray, "n"]) -> Rows:
        """Those rows, counted from the first one of the block."""
        ...


class Block(Readable, Protocol):
    """The pairs first .. last - 1."""

    @property
    def first(self) -> int:
        """Id of the first pair."""
        ...

    @property
    def last(self) -> int:
        """One more than the id of the last pair."""
        ...


class Piece(NamedTuple):
    """Some rows of a block, ascending."""

    block: Readable
    rows: slice | Int64[np.ndarray, "n"]


@dataclass(frozen=True)
class ArrayBlock:
    """Rows of U and V in memory, or mapped from files."""

    U: Float32[np.ndarray, "all d"]
    V: Float32[np.ndarray, "all d"]
    contents: UInt64[np.ndarray, "2 all"] | None
    first: int
    last: int

    def read(self, rows: slice | Int64[np.ndarray, "n"]) -> Rows:
        """See `Readable`."""
        within = slice(self.first, self.last)
        contents = None if self.contents is None else self.contents[:, within][:, rows]
        ids = np.arange(self.first, self.last)[rows]
        U = self.U[within][rows]
        V = U if self.V is self.U else self.V[within][rows]  # single-view data
        return Rows(ids, U, V, contents)


@dataclass(frozen=True)
class StoreBlock:
    """A shard of the store of embeddings, see `selection.embeddings`."""

    embeddings_file: Path
    contents_file: Path
    first: int
    last: int

    def read(self, rows: slice | Int64[np.ndarray, "n"]) -> Rows:
        """See `Readable`."""
        both = np.load(self.embeddings_file, mmap_mode="r")
        contents = np.load(self.contents_file, mmap_mode="r")
        U, V = both[:, rows]
        return Rows(np.arange(self.first, self.last)[rows], U, V, contents[:, rows])


@dataclass(frozen=True)
class SortedBlock:
    """A block on disk, region by region: embeddings [2, n, d], and a table [3, n] of ids and hashes."""

    embeddings_file: Path
    table_file: Path

    def read(self, rows: slice | Int64[np.ndarray, "n"]) -> Rows:
        """See `Readable`; ids ascend inside each region."""
        U, V = np.load(self.embeddings_file, mmap_mode="r")[:, rows]
        table = np.load(self.table_file, mmap_mode="r")[:, rows]
        return Rows(table[0].astype(np.int64), U, V, table[1:])


def write_sorted(folder: Path, block: Block, region_of: Int32[np.ndarray, "n"]) -> SortedBlock:
    """Sort a block by region, into two files; what is finished stays when a write fails.

    Args:
        folder: where they go, named by the first id.
        block: a block that knows the hashes of its contents.
        region_of: the region of each of its pairs.
    """
    rows = block.read(slice(None))
    assert rows.contents is not None, "the store of embeddings has hashes"
    order = np.argsort(region_of, kind="stable")
    written = SortedBlock(
        folder / f"embeddings-{block.first:012d}.npy", folder / f"table-{block.first:012d}.npy"
    )
    write_array(written.embeddings_file, np.stack([rows.U[order], rows.V[order]]))
    table = np.concatenate([rows.ids[None].astype(np.uint64), rows.contents])
    write_array(written.table_file, table[:, order])
    return written


def array_blocks(
    U: Float32[np.ndarray, "n d"],
    V: Float32[np.ndarray, "n d"],
    contents: UInt64[np.ndarray, "2 n"] | None,
) -> list[ArrayBlock]:
    """Two arrays as blocks of 65,536 pairs."""
    return [
        ArrayBlock(U, V, contents, first, min(first + _ROWS_PER_BLOCK, len(U)))
        for first in range(0, len(U), _ROWS_PER_BLOCK)
    ]


def pieces_of(blocks: Sequence[Block], ids: Int64[np.ndarray, "n"]) -> list[Piece]:
    """Where the pairs with these ids are; ids ascend."""
    ends = np.searchsorted(ids, [block.last for block in blocks])
    starts = np.concatenate([[0], ends[:-1]])
    return [
        Piece(block, ids[start:end] - block.first)
        for block, start, end in zip(blocks, starts, ends, strict=True)
        if start < end
    ]


def read_pieces(pieces: Iterable[Piece], map_tasks: Callable[..., Iterable[Rows]] = map) -> Rows:
    """The rows of all pieces, in their order, as float32; V is U where it is in every piece."""
    ids, U, V, contents = zip(*map_tasks(read_piece, pieces), strict=True)
    known = [hashes for hashes in contents if hashes is not None]
    is_single_view = all(one is other for one, other in zip(U, V, strict=True))
    joined = np.concatenate(U).astype(np.float32, copy=False)
    return Rows(
        np.concatenate(ids),
        joined,
        joined if is_single_view else np.concatenate(V).astype(np.float32, copy=False),
        np.concatenate(known, axis=1) if known else None,
    )


def read_piece(piece: Piece) -> Rows:
    """The rows of one piece."""
    return piece.block.read(piece.rows)
