"""Selection for data sets that do not fit one node: divide, choose inside each region, put together.

    blocks  --sample-->  regions  ->  every pair gets a region  ->  `choose_together` in each region  ->  batches
                                                                              |                              ^
                                                                              +-- who was left over: the rest

Nobody holds all embeddings. One pass over the blocks says where every pair belongs (`selection.division`); then a task
for each region reads its rows. What regions leave over (less than a batch each, duplicates without a place, and who was
too many for a region) is selected last, as if it were a region. Who puts this together holds ids and labels only.

Blocks, regions and seeds do not depend on who does the work, so neither does the schedule.

Legend: m batches, b batch size, r left over.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from selection.alarms import alarms
from selection.blocks import Block, Piece, Rows, pieces_of, read_pieces
from selection.choose import Selection, check_request, choose_together
from selection.config import SelectionConfig
from selection.division import Division, divide, draw_queries, read_ids, read_sample
from selection.errors import NoBatchError
from selection.problem import Mapper
from selection.progress import Progress, silent
from selection.region_quality import Queries, combine, measure_links, measure_sample
from selection.regions import count_regions, find_regions
from selection.renewal import measure_renewal
from selection.threads import thread_map

_MEASURED_BATCHES = 1 << 16
_DISSOLVED = 2


@dataclass(frozen=True)
class RegionalJob:
    """What is asked for, as in `selection.choose.choose_together`."""

    batch_size: int
    temperature: float
    config: SelectionConfig
    seed: tuple[int, int]
    previous_leftover: Int64[np.ndarray, "r"]


class Chosen(NamedTuple):
    """What came out of one region; ids are those of the data set."""

    batches: Int64[np.ndarray, "m b"]
    leftover: Int64[np.ndarray, "r"]
    fields: dict[str, Any] | None = None
    """Quality and seconds, when a batch could be formed."""


def choose_regionally(
    blocks: Sequence[Block],
    job: RegionalJob,
    folder: Path | None = None,
    map_blocks: Mapper = thread_map,
    map_regions: Mapper = map,
    progress: Progress = silent,
    previous_batches: Int64[np.ndarray, "m0 b0"] | None = None,
) -> Selection:
    """Choose batches, region by region.

    Args:
        blocks: all pairs.
        job: what is asked for.
        folder: where blocks are written sorted by region, on a file system that all nodes see; the caller removes it.
            None reads the rows of a region where they are.
        map_blocks: where blocks are read.
        map_regions: where regions are selected, each of which may take a whole node.
        progress: told after each block and each region.
        previous_batches: those of the round before; only to tell how much of them has changed.

    Raises:
        ConfigError: the settings do not suit regions, or not one batch can be formed.
    """
    num_pairs, config = blocks[-1].last, job.config
    check_request(config, num_pairs, job.batch_size)
    num_regions = count_regions(num_pairs, config.regions.max_pairs)
    rng = np.random.default_rng(job.seed)
    ticks = [time.perf_counter()]

    sample = read_sample(blocks, num_regions, job.batch_size, rng, map_blocks)
    regions = find_regions(
        sample.U, sample.V, num_regions, job.batch_size, job.temperature, job.seed, progress
    )
    ticks.append(time.perf_counter())
    queries = draw_queries(sample, num_pairs, config.graph, rng)
    division = divide(blocks, regions, queries, folder, map_blocks, progress)
    division.turn_away(config.regions.max_pairs, rng)
    ticks.append(time.perf_counter())
    parts, leftover = choose_in_regions(division, job, map_regions, rng, progress)
    batches = np.concatenate([part.batches for part in parts])
    if not len(batches):
        raise NoBatchError(_no_batch(job.batch_size))
    ticks.append(time.perf_counter())
    measured = _measure(
        parts, batches, sample, queries, division, partial(read_ids, blocks, map_blocks), job, rng
    )
    some = np.sort(rng.permutation(len(batches))[:_MEASURED_BATCHES])
    measured |= measure_renewal(batches[some], previous_batches, num_pairs)
    ticks.append(time.perf_counter())
    own = dict(zip(("regions_s", "divide_s", "choose_s", "measure_s"), np.diff(ticks), strict=True))
    fields = {
        **measured,
        "num_batches": len(batches),
        "num_regions": num_regions,
        "num_held_back": len(leftover) - num_pairs % job.batch_size,
        "seconds": {stage: float(seconds) for stage, seconds in own.items()},
        "seconds_in_regions": measured["seconds"],
    }
    fields["alarms"] = alarms(fields, config)
    return Selection(batches, leftover, fields)


def _measure(
    parts: Sequence[Chosen],
    batches: Int64[np.ndarray, "m b"],
    sample: Rows,
    queries: Queries,
    division: Division,
    read: Callable[[Int64[np.ndarray, "some"]], Rows],
    job: RegionalJob,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """What regions say of themselves, and over it what only samples of all pairs can say."""
    measured = combine([part.fields for part in parts if part.fields])
    measured |= measure_sample(sample, job.batch_size, job.temperature, rng)
    return measured | measure_links(
        measured, queries, division.found, read, division.region_of, batches, job.config,
        job.temperature,
    )  # fmt: skip


def choose_in_regions(
    division: Division,
    job: RegionalJob,
    map_regions: Mapper,
    rng: np.random.Generator,
    progress: Progress,
) -> tuple[list[Chosen], Int64[np.ndarray, "r"]]:
    """What comes out of all regions and of the rest, and who is left over in the end.

    Nobody of the previous leftover is, unless there are fewer than two batches, or duplicates leave no place.
    """
    num_pairs, done = len(division.region_of), 0
    parts: list[Chosen] = []
    tasks = (division.pieces(region) for region in range(division.num_regions))
    for part in map_regions(partial(choose_region, job), tasks):
        parts.append(part)
        done += part.batches.size
        progress("regions", done, num_pairs)
    rest = np.concatenate([division.turned_away(), *(part.leftover for part in parts)])
    if np.isin(rest, job.previous_leftover).any() and len(rest) < _DISSOLVED * job.batch_size:
        parts, dissolved = _dissolve(parts)
        rest = np.concatenate([rest, dissolved])
    portions = [pieces_of(division.blocks, ids) for ids in _portions(rest, job, rng)]
    last = list(map_regions(partial(choose_region, job), portions))
    progress("regions", num_pairs, num_pairs)
    leftover = np.sort(np.concatenate([rest[:0], *(part.leftover for part in last)]))
    return [*parts, *last], leftover


def choose_region(job: RegionalJob, pieces: Sequence[Piece]) -> Chosen:
    """Choose the batches of one region, wherever this runs."""
    if not pieces:
        return Chosen(np.empty((0, job.batch_size), np.int64), np.empty(0, np.int64))
    rows = read_pieces(pieces)
    try:
        chosen = choose_together(
            (rows.U, rows.V), job.batch_size, job.temperature, job.config, job.seed,
            np.flatnonzero(np.isin(rows.ids, job.previous_leftover)), contents=rows.contents,
        )  # fmt: skip
    except NoBatchError:
        return Chosen(np.empty((0, job.batch_size), np.int64), rows.ids)
    return Chosen(rows.ids[chosen.batches], rows.ids[chosen.leftover], chosen.fields)


def _portions(
    rest: Int64[np.ndarray, "r"], job: RegionalJob, rng: np.random.Generator
) -> Iterator[Int64[np.ndarray, "n"]]:
    """The rest in portions that one node can do, nearly always one; only the last is no whole number of batches.

    Pairs that were left over in the round before are in the first ones.
    """
    is_first = np.isin(rest, job.previous_leftover)
    by_right = np.concatenate([rest[is_first], rng.permutation(rest[~is_first])])
    size = job.config.regions.max_pairs // job.batch_size * job.batch_size
    for start in range(0, len(rest), size):
        yield np.sort(by_right[start : start + size])


def _dissolve(parts: list[Chosen]) -> tuple[list[Chosen], Int64[np.ndarray, "n"]]:
    """Take the last batches away again, so that a small rest has room for those who must be scheduled now."""
    kept, dissolved = [], []
    for part in reversed(parts):
        num_kept = max(0, len(part.batches) + len(dissolved) - _DISSOLVED)
        dissolved += list(part.batches[num_kept:])
        kept.append(part._replace(batches=part.batches[:num_kept]))
    return kept[::-1], np.concatenate([np.empty(0, np.int64), *dissolved])


def _no_batch(batch_size: int) -> str:
    return (
        f"batch_size is {batch_size}, but in no region so many pairs may share a batch, as the others are duplicates "
        "or false negatives of each other; take a smaller batch, remove duplicates, or loosen "
        "selection.hardness.separate_duplicates or margin"
    )
