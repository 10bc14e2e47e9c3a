"""The pass over all embeddings that says which region every pair belongs to.

Every block is read once: its pairs get their regions, its rows are sorted by them into files where there is a folder,
and the neighbours of some queries are looked for, so that what the regions lose can be told.

Legend: n pairs of the data set, d dimensions, r regions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Int64

from selection.blocks import Block, Piece, Readable, Rows, pieces_of, read_pieces, write_sorted
from selection.config import GraphConfig
from selection.problem import Mapper
from selection.progress import Progress
from selection.region_quality import Found, Queries, look_for, merge, nothing_found
from selection.regions import Regions, assign, sample_size
from selection.threads import one_blas_thread

_NUM_QUERIES = 512
_SAMPLED_BATCHES = 8  # of random pairs at least, to compare chosen ones with


@dataclass(frozen=True)
class Division:
    """Who belongs to which region."""

    blocks: Sequence[Block]
    readable: Sequence[Readable]
    """The same blocks, as their rows are best read: sorted by region, if they are other objects."""

    region_of: Int32[np.ndarray, "n"]
    """The region of each pair; ~region for who is turned away there, see `turn_away`."""

    starts: Int64[np.ndarray, "blocks r+1"]
    """Where the rows of each region start in a block that is sorted."""

    found: Found
    """Neighbours of the queries among all pairs."""

    @property
    def num_regions(self) -> int:
        """How many there are."""
        return self.starts.shape[1] - 1

    def turn_away(self, max_pairs: int, rng: np.random.Generator) -> None:
        """Draw who is too many for a region."""
        for region in np.flatnonzero(self._sizes() > max_pairs):
            members = np.flatnonzero(self.region_of == region)
            away = rng.choice(members, len(members) - max_pairs, replace=False)
            self.region_of[away] = ~region

    def turned_away(self) -> Int64[np.ndarray, "away"]:
        """Ids of who is too many, ascending."""
        return np.flatnonzero(self.region_of < 0)

    def pieces(self, region: int) -> list[Piece]:
        """Where the rows of a region are, ids ascending."""
        is_full = self._sizes()[region] > (self.region_of == region).sum()
        pieces = []
        for number, (block, readable) in enumerate(zip(self.blocks, self.readable, strict=True)):
            start, stop = self.starts[number, region : region + 2]
            if start == stop:
                continue
            local = self.region_of[block.first : block.last]
            if readable is block:
                rows = np.flatnonzero(local == region)
            elif is_full:
                mine = local[(local == region) | (local == ~region)]
                rows = start + np.flatnonzero(mine == region)
            else:
                rows = slice(int(start), int(stop))
            pieces.append(Piece(readable, rows))
        return pieces

    def _sizes(self) -> Int64[np.ndarray, "r"]:
        return np.diff(self.starts, axis=1).sum(axis=0)


def read_sample(
    blocks: Sequence[Block],
    num_regions: int,
    batch_size: int,
    rng: np.random.Generator,
    map_blocks: Mapper,
) -> Rows:
    """Pairs drawn from all blocks: enough to find regions, and for some random batches."""
    num_pairs = blocks[-1].last
    size = max(sample_size(num_pairs, num_regions), _SAMPLED_BATCHES * batch_size)
    ids = rng.choice(num_pairs, min(num_pairs, size), replace=False, shuffle=False)
    return read_ids(blocks, map_blocks, np.sort(ids))


def read_ids(blocks: Sequence[Block], map_blocks: Mapper, ids: Int64[np.ndarray, "some"]) -> Rows:
    """The rows of some pairs, ids ascending."""
    return read_pieces(pieces_of(blocks, ids), map_blocks)


def draw_queries(
    sample: Rows, num_pairs: int, config: GraphConfig, rng: np.random.Generator
) -> Queries:
    """Pairs whose neighbours are looked for among all pairs."""
    some = np.sort(rng.permutation(len(sample.ids))[:_NUM_QUERIES])
    k = min(config.first_rank + config.num_neighbors, num_pairs - 1)
    return Queries(sample.ids[some], sample.U[some], sample.V[some], k)


def divide(
    blocks: Sequence[Block],
    regions: Regions,
    queries: Queries,
    folder: Path | None,
    map_blocks: Mapper,
    progress: Progress,
) -> Division:
    """Give every pair its region.

    Args:
        blocks: all pairs.
        regions: where the regions are.
        queries: pairs whose neighbours are looked for on the way.
        folder: where blocks are written sorted by region; None leaves them where they are.
        map_blocks: where blocks are read.
        progress: told after each block.
    """
    num_regions = len(regions.prices)
    region_of = np.empty(blocks[-1].last, np.int32)
    readable, starts, found = [], [], nothing_found(queries)
    with one_blas_thread():
        results = map_blocks(partial(divide_block, regions, queries, folder), blocks)
        for block, (own, reader, near) in zip(blocks, results, strict=True):
            region_of[block.first : block.last] = own
            readable.append(reader)
            sizes = np.bincount(own, minlength=num_regions)
            starts.append(np.concatenate([[0], np.cumsum(sizes)]))
            found = merge(found, near)
            progress("divide", block.last, len(region_of))
    return Division(blocks, readable, region_of, np.stack(starts), found)


class _Divided(NamedTuple):
    region_of: Int32[np.ndarray, "rows"]
    readable: Readable
    found: Found


def divide_block(regions: Regions, queries: Queries, folder: Path | None, block: Block) -> _Divided:
    """One block, wherever this runs: the regions of its pairs, how to read it now, and what is near the queries."""
    rows = read_pieces([Piece(block, slice(None))])
    region_of = assign(rows.U, rows.V, regions)
    readable = block if folder is None else write_sorted(folder, block, region_of)
    return _Divided(region_of, readable, look_for(queries, rows))
