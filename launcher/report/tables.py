"""The numbers of a report: tables that need no picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from launcher.config import flatten
from launcher.record import STAGES, Record
from launcher.report.sentences import state
from launcher.spelling import spell_seconds

NOTHING = "—"
_RETRIEVAL = {
    "MRR u → v": "u_to_v/mrr",
    "MRR v → u": "v_to_u/mrr",
    "recall@1": "u_to_v/recall_at_1",
    "recall@10": "u_to_v/recall_at_10",
    "validation MRR": "validation/u_to_v/mrr",
    "corrupted R@1": "corrupted/u_to_v/recall_at_1",
}
"""Columns of the table of retrieval, and the metric in each; one that no run has is left out."""

_SIGNALS = {
    "batch loss": ("batch_loss", "{:.3f}"),
    "of random batches": ("random_batch_loss", "{:.3f}"),
    "affinity captured": ("captured_affinity", "{:.1%}"),
    "by random batches": ("random_captured_affinity", "{:.1%}"),
    "eigengap": ("eigengap", "{:.4f}"),
    "neighbour recall": ("knn_recall", "{:.3f}"),
    "isolated pairs": ("num_isolated", "{:,}"),
    "components": ("num_components", "{:,}"),
    "mates kept": ("kept_mates", "{:.1%}"),
    "by chance": ("random_kept_mates", "{:.1%}"),
    "staleness, steps": ("staleness_steps", "{:,}"),
    "alarms": ("alarms", "{}"),
}
"""Columns of the table of schedules: the field of a manifest, and how its value is spelled."""


@dataclass(frozen=True)
class Table:
    """Cells as text; the first column names the row."""

    heading: list[str]
    rows: list[list[str]]
    is_text: bool = False
    """Whether the cells are words, which stand on the left, or numbers."""


@dataclass(frozen=True)
class Fact:
    """One number that stands for a run."""

    label: str
    value: str
    note: str = ""


def headline(record: Record) -> list[Fact]:
    """The numbers that one asks for first."""
    last = record.rounds[-1] if record.rounds else {}
    mrr = last.get("u_to_v/mrr")
    recall = last.get("u_to_v/recall_at_10")
    hardness = record.hardness
    share = record.selection_s / record.learning_s if record.learning_s else 0.0
    return [
        Fact("held-out MRR", _spell(mrr, "{:.4f}"), "u → v"),
        Fact("recall@10", _spell(recall, "{:.1%}"), "u → v"),
        Fact("steps", f"{record.num_steps:,}", state(record)),
        Fact(
            "training + selection", spell_seconds(record.learning_s), f"{share:.0%} of it selection"
        ),
        Fact(
            "batch loss vs random",
            f"{hardness[0] / hardness[1]:.2f}x" if hardness and hardness[1] else NOTHING,
            "on the same embeddings" if hardness else "random batches only",
        ),
        Fact("alarms", str(len(record.alarms)), f"in {len(record.manifests)} schedules"),
    ]


def headline_table(records: Sequence[Record]) -> Table:
    """The same for several runs, one in a row."""
    facts = [headline(record) for record in records]
    heading = ["run", *(fact.label for fact in facts[0])]
    rows = [
        [record.name, *(fact.value for fact in line)]
        for record, line in zip(records, facts, strict=True)
    ]
    return Table(heading, rows)


def learning_table(records: Sequence[Record]) -> Table:
    """Retrieval after each finished round, with the steps and seconds until then."""
    known = {field for record in records for line in record.rounds for field in line}
    columns = {label: field for label, field in _RETRIEVAL.items() if field in known}
    rows = []
    for record in records:
        seconds = record.learning_seconds_at(np.array([line["time"] for line in record.rounds]))
        for line, so_far in zip(record.rounds, seconds, strict=True):
            name = f"{record.name}, round {line['round']}"
            metrics = (_spell(line.get(field), "{:.4f}") for field in columns.values())
            loss = _mean_loss(record, line["round"])
            rows.append([name, f"{line['step']:,}", f"{so_far:,.1f}", *metrics, loss])
    return Table(["", "steps", "seconds", *columns, "training loss"], rows)


def _mean_loss(record: Record, round_number: int) -> str:
    losses = [line["train/loss"] for line in record.lines if line["round"] == round_number]
    return _spell(sum(losses) / len(losses) if losses else None, "{:.3f}")


def schedules_table(records: Sequence[Record]) -> Table:
    """What the manifests say of the batches; columns that no schedule fills are left out."""
    manifests = [
        (f"{record.name}, round {manifest['round']}", manifest)
        for record in records
        for manifest in record.manifests
    ]
    columns = {
        label: column
        for label, column in _SIGNALS.items()
        if any(manifest.get(column[0]) is not None for _, manifest in manifests)
    }
    rows = [
        [label, manifest["strategy"], *(_signal(manifest, *column) for column in columns.values())]
        for label, manifest in manifests
    ]
    return Table(["", "strategy", *columns], rows)


def _signal(manifest: dict[str, Any], field: str, form: str) -> str:
    value = manifest.get(field)
    return _spell(len(value) if isinstance(value, list) else value, form)


def seconds_table(records: Sequence[Record]) -> Table:
    """Seconds by stage of each run."""
    rows = [
        [
            record.name,
            *(f"{record.seconds.get(stage, 0):,.1f}" for stage in STAGES),
            f"{record.learning_s:,.1f}",
            f"{sum(record.seconds.values()):,.1f}",
        ]
        for record in records
    ]
    return Table(["", *STAGES, "training + selection", "all"], rows)


def configuration_table(records: Sequence[Record]) -> Table:
    """The settings in which runs differ; of a run on its own, none."""
    settings = [flatten(record.config.identity()) for record in records]
    fields = sorted({field for values in settings for field in values})
    rows = [
        [field, *(_spell_setting(values.get(field)) for values in settings)]
        for field in fields
        if len({_spell_setting(values.get(field)) for values in settings}) > 1
    ]
    return Table(["setting", *(record.name for record in records)], rows, is_text=True)


def versions_table(records: Sequence[Record]) -> Table:
    """What the last attempt of each run ran on."""
    packages = dict.fromkeys(package for record in records for package in record.versions)
    rows = [[package, *(r.versions.get(package, NOTHING) for r in records)] for package in packages]
    return Table(["", *(record.name for record in records)], rows, is_text=True)


def _spell(value: float | None, form: str) -> str:
    return NOTHING if value is None else form.format(value)


def _spell_setting(value: Any) -> str:
    return "null" if value is None else str(value)
