"""The sections with figures: what of the records is drawn, what is said of it, and the same in numbers."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from launcher.record import Record
from launcher.report import sentences, tables
from launcher.report.figures import (
    Bar,
    Curve,
    Panel,
    Points,
    draw_learning,
    draw_rounds,
    draw_seconds,
    draw_spectrum,
)
from launcher.report.tables import Table

_MOST_POINTS = 300  # of a curve; more do not fit beside each other
_MOST_BARS = 40  # beyond it, rounds are added up
_PREPARING = {"index": "prepare", "encoder": "prepare"}  # other stages go by their own name
_STAGES = ("prepare", "embed", "select", "train", "judge")
_PARTS = ("neighbors", "affinity", "partition", "swap", "measure", "other")
_FORMING_BATCHES = ("losses", "order", "walk", "choose", "duplicates", "guard", "regions", "divide")
PART_OF = {
    **{part: part for part in _PARTS},
    "margin": "affinity",  # both say who is linked
    **dict.fromkeys(_FORMING_BATCHES, "partition"),
}
"""Parts of selection by what the manifests call them, without `_s`; the rest is starting workers, reading, writing."""

_Seconds = tuple[dict[str, float], dict[str, float]]
_PANELS = {
    "Loss of the batches": ("batch_loss", "random_batch_loss"),
    "Affinity captured": ("captured_affinity", "random_captured_affinity"),
    "Mates kept": ("kept_mates", "random_kept_mates"),
    "Staleness in steps": ("staleness_steps", ""),
    "Eigengap": ("eigengap", ""),
    "Neighbour recall": ("knn_recall", ""),
    "Hubs' share of places": ("hub_share", ""),
    "Isolated pairs": ("isolated_share", ""),
}
"""What is shown of the schedules: the field of a manifest, and the one that says what random batches would have."""


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    id: str
    title: str
    said: list[str]
    """Sentences."""

    figures: list[str]
    """SVG elements."""

    table: Table
    table_title: str


def make_sections(records: Sequence[Record]) -> list[Section]:
    """In the order in which one asks: what was learned, from which batches, at what price."""
    return [_learning(records), _schedules(records), _seconds(records)]


def _learning(records: Sequence[Record]) -> Section:
    said = sentences.describe_learning(records)
    svg = draw_learning(
        _names(records),
        [_curve(record, record.rounds, "u_to_v/mrr") for record in records],
        [_curve(record, record.lines, "train/loss") for record in records],
        label=" ".join(said),
    )
    table = tables.learning_table(records)
    return Section("learning", "Learning", said, [svg], table, "Retrieval by round")


def _schedules(records: Sequence[Record]) -> Section:
    said = sentences.describe_schedules(records)
    panels = [
        Panel(title, points)
        for title, (field, random_field) in _PANELS.items()
        if (points := _points(records, field, random_field))
    ]
    drawn = [draw_rounds(_names(records), panels, label=" ".join(said))] if panels else []
    spectra = {i: values for i, record in enumerate(records) if (values := _eigenvalues(record))}
    if spectra:
        drawn.append(draw_spectrum(_names(records), spectra, label="Leading eigenvalues."))
    table = tables.schedules_table(records)
    title = "Batches, spectrum and cut"
    return Section("batches", title, said, drawn, table, "All signals by round")


def _seconds(records: Sequence[Record]) -> Section:
    said = sentences.describe_seconds(records)
    bars = make_bars(records, by_round=True)
    if len(bars) > _MOST_BARS:
        bars = make_bars(records, by_round=False)
    drawn = [draw_seconds(bars, _STAGES, _PARTS, label=" ".join(said))] if bars else []
    table = tables.seconds_table(records)
    return Section("seconds", "Where the seconds went", said, drawn, table, "Seconds by stage")


def _names(records: Sequence[Record]) -> list[str]:
    return [record.name for record in records]


def _curve(record: Record, lines: Sequence[dict[str, Any]], field: str) -> Curve:
    """A field of JSON lines over steps and seconds; of many lines, means of equally many."""
    columns = np.array([(line["step"], line["time"], line[field]) for line in lines]).reshape(-1, 3)
    steps, times, values = columns.T
    rows = np.stack([steps, record.learning_seconds_at(times), values])
    return Curve(*thin(rows, _MOST_POINTS))


def thin(rows: Float64[np.ndarray, "r n"], most: int) -> Float64[np.ndarray, "r m"]:
    """Means of as many neighbouring columns as leave at most `most`."""
    num_columns = rows.shape[1]
    width = max(1, -(-num_columns // most))
    starts = np.arange(0, num_columns, width)
    if not num_columns:
        return rows
    return np.add.reduceat(rows, starts, axis=1) / np.diff(starts, append=num_columns)


def _points(records: Sequence[Record], field: str, random_field: str) -> list[Points]:
    """A field of the manifests of all runs that have it."""
    found = []
    for series, record in enumerate(records):
        known = [manifest for manifest in record.manifests if manifest.get(field) is not None]
        rounds, values = [m["round"] for m in known], [m[field] for m in known]
        random = [m.get(random_field, math.nan) for m in known] if random_field else []
        if known:
            found.append(Points(series, rounds, values, random))
    return found


def _eigenvalues(record: Record) -> list[float]:
    """Of the last round that has some."""
    spectra = [
        manifest["eigenvalues"] for manifest in record.manifests if "eigenvalues" in manifest
    ]
    return spectra[-1] if spectra else []


def make_bars(records: Sequence[Record], by_round: bool) -> list[Bar]:
    """A bar per round of every run, or per run."""
    bars = []
    for record in records:
        for number, (stages, parts) in _count_seconds(record, by_round).items():
            words = [record.name] if len(records) > 1 or not by_round else []
            words += [f"round {number}"] if by_round else []
            bars.append(Bar(", ".join(words), stages, parts))
    return bars


def _count_seconds(record: Record, by_round: bool) -> dict[int, _Seconds]:
    """Seconds by stage, and by part of the selection, of every round, or of all rounds together as round 0."""
    counted: dict[int, _Seconds] = defaultdict(lambda: (defaultdict(float), defaultdict(float)))
    for line in record.stages:
        stages, _ = counted[line["round"] if by_round else 0]
        stage: str = line["stage"]
        stages[_PREPARING.get(stage, stage)] += line["seconds"]
    for manifest in record.manifests:
        _, parts = counted[manifest["round"] if by_round else 0]
        for stage, seconds in manifest["seconds"].items():
            parts[PART_OF.get(stage.removesuffix("_s"), "other")] += seconds
    for stages, parts in counted.values():
        parts["other"] += max(0.0, stages["select"] - sum(parts.values()))
    return counted
