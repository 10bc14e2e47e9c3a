"""Quality signals of a schedule that was chosen region by region; see `selection.quality` for what they mean.

What regions say of themselves is averaged, weighted by their batches. What they cannot see is measured on samples of
all pairs: random batches, the spread of the embeddings, and for some queries their true neighbours among all pairs,
which tell how many of those ended up in the same region, and how much affinity in the same batch.

Legend: n pairs, m batches, b batch size, d dimensions, q queries, k neighbours.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int32, Int64

from selection.affinity import build_affinity
from selection.blocks import Rows
from selection.config import SelectionConfig
from selection.duplicates import hash_rows, number_contents
from selection.exact import Closest, closest
from selection.exact import merge as merge_closest
from selection.forbidden import nothing_forbidden
from selection.knn import Neighbors, drop_self
from selection.mending import batch_of_each
from selection.quality import (
    batch_losses,
    measure_embeddings,
    num_affordable_batches,
    random_batches,
    share_inside,
)
from selection.threads import one_blas_thread

_SETTINGS = ("seed", "round", "temperature", "batch_size", "num_random_per_batch", "group_size")
_NOT_COMBINED = ("seconds", "alarms", "captured_affinity", "random_captured_affinity")


class Queries(NamedTuple):
    """Pairs whose neighbours are looked for."""

    ids: Int64[np.ndarray, "q"]
    U: Float32[np.ndarray, "q d"]
    V: Float32[np.ndarray, "q d"]
    k: int


class Found(NamedTuple):
    """The k + 1 nearest of the queries in both directions, themselves included."""

    v_of_u: Closest
    u_of_v: Closest


def nothing_found(queries: Queries) -> Found:
    """Empty lists."""
    shape = len(queries.ids), queries.k + 1
    empty = Closest(np.full(shape, -np.inf, np.float32), np.full(shape, -1))
    return Found(empty, empty)


def look_for(queries: Queries, rows: Rows) -> Found:
    """The nearest of the queries among some pairs, exactly."""
    return Found(
        *(
            Closest(near.similarities, rows.ids[near.ids])
            for near in (
                closest(queries.U, rows.V, queries.k + 1),
                closest(queries.V, rows.U, queries.k + 1),
            )
        )
    )


def merge(one: Found, other: Found) -> Found:
    """The nearest of both, as many as `one` has."""
    count = one.v_of_u.ids.shape[1]
    return Found(*(merge_closest(*sides, count) for sides in zip(one, other, strict=True)))


def combine(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Signals of the regions as those of one schedule.

    Counts (`num_*`) and seconds are added up, numbers are averaged by batches, words and lists are those of the largest
    region.
    """
    weights = [part["num_batches"] for part in parts]
    largest = parts[int(np.argmax(weights))]
    combined: dict[str, Any] = {}
    for field in dict.fromkeys(field for part in parts for field in part):
        having = [(part[field], w) for part, w in zip(parts, weights, strict=True) if field in part]
        values, their_weights = zip(*having, strict=True)
        if field in _SETTINGS or isinstance(values[0], str | list):
            combined[field] = largest.get(field, values[0])
        elif field.startswith("num_"):
            combined[field] = sum(values)
        elif field not in _NOT_COMBINED:
            combined[field] = float(np.average(values, weights=their_weights))
    stages = dict.fromkeys(stage for part in parts for stage in part["seconds"])
    combined["seconds"] = {s: sum(part["seconds"].get(s, 0.0) for part in parts) for s in stages}
    return combined


def measure_sample(
    sample: Rows, batch_size: int, temperature: float, rng: np.random.Generator
) -> dict[str, float]:
    """Random batches, and the spread of the embeddings, from pairs drawn among all."""
    count = num_affordable_batches(batch_size)
    with one_blas_thread():
        randoms = random_batches(len(sample.ids), batch_size, count, rng)
        losses = batch_losses(sample.U, sample.V, randoms, temperature)
        spread = measure_embeddings(sample.U, sample.V, rng)
    return {"random_batch_loss": float(losses.mean()), **spread}


def measure_links(
    combined: Mapping[str, Any],
    queries: Queries,
    found: Found,
    read_ids: Callable[[Int64[np.ndarray, "some"]], Rows],
    region_of: Int32[np.ndarray, "n"],
    batches: Int64[np.ndarray, "m b"],
    config: SelectionConfig,
    temperature: float,
) -> dict[str, float]:
    """What became of the true links of the queries; nothing for a strategy that looks at no graph.

    Args:
        combined: signals of the regions.
        queries: pairs drawn among all.
        found: their neighbours among all pairs.
        read_ids: reads the rows of pairs, ids ascending.
        region_of: the region of each pair.
        batches: what was chosen.
        config: which links count.
        temperature: t in their weights.

    Returns:
        `neighbors_in_region`, the share of the neighbours whose pair is in the region of the query; `knn_recall`, that
        share times the recall of the search inside regions, `knn_recall_in_region`; `neighbors_in_batch`, the share
        whose pair is in the same batch; `captured_affinity`, the same by weight, 5 to 20 % more than on the graph
        of all pairs, because links of others to the queries are not seen, and what random batches would capture: of
        whole batches, with links that a margin takes. Not those two where only `mutual` links count, as the
        neighbours' own neighbours are not known.
    """
    if "knn_recall" not in combined:
        return {}
    sides = [drop_self(near.ids, queries.ids) for near in found]
    ids = np.unique(np.concatenate([queries.ids, *(side.ravel() for side in sides)]))
    rows = read_ids(ids)
    own = np.searchsorted(ids, queries.ids)
    local = [np.full((len(ids), queries.k), -1, np.int32) for _ in sides]
    for table, side in zip(local, sides, strict=True):
        table[own] = np.searchsorted(ids, side)
    neighbors = Neighbors(*local, recall=1.0, first_rank=config.graph.first_rank)
    graph = build_affinity(rows.U, rows.V, neighbors, batches.shape[1], temperature)
    if config.hardness.looks_for_duplicates(config.strategy):
        hashes = hash_rows(rows.U, rows.V) if rows.contents is None else rows.contents
        forbidden = replace(nothing_forbidden(len(ids)), contents=number_contents(hashes))
        graph = forbidden.remove_from(graph)
    batch_of = batch_of_each(batches, len(region_of), np.int32)
    together, met = (
        _share_with(label_of, queries.ids, sides) for label_of in (region_of, batch_of)
    )
    recall = combined["knn_recall"]
    signals = {
        "neighbors_in_region": together,
        "neighbors_in_batch": met,
        "knn_recall": together * recall,
        "knn_recall_in_region": recall,
        "knn_recall_queries": len(queries.ids),
    }
    if not config.graph.mutual:
        signals["captured_affinity"] = share_inside(graph, batch_of[ids])
        signals["random_captured_affinity"] = (batches.shape[1] - 1) / (len(region_of) - 1)
    return signals


def _share_with(
    label_of: Int32[np.ndarray, "n"],
    ids: Int64[np.ndarray, "q"],
    neighbors: Sequence[Int32[np.ndarray, "q k"]],
) -> float:
    """Share of the neighbours that have the label of their query; who is nowhere has a negative one."""
    own = label_of[ids, None]
    return float(np.mean([(label_of[side] == own) & (own >= 0) for side in neighbors]))
