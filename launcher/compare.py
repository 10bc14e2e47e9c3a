"""Runs side by side: one table of retrieval, hardness and seconds, from what the runs wrote down."""

from collections.abc import Sequence
from pathlib import Path

from launcher.record import STAGES, Record, distinct_names, read_record
from selection.errors import ConfigError

_METRICS = ("mrr", "recall_at_1", "recall_at_5", "recall_at_10")
_DIRECTIONS = {"u_to_v": "u -> v", "v_to_u": "v -> u"}


def summarize(root: Path) -> Record:
    """Read what a run wrote, which has something to compare.

    Raises:
        ConfigError: it is no run, or has not finished a round.
    """
    record = read_record(root)
    if not record.rounds:
        raise ConfigError(f"{root}: no round is finished yet; `coterie run` goes on with it")
    return record


def comparison(records: Sequence[Record]) -> list[list[str]]:
    """Rows of the table: a heading, then one row per quantity, one column per run."""
    rows = [["", *distinct_names([record.dir.root for record in records])]]

    def add(label: str, cells: list[str]) -> None:
        rows.append([label, *cells])

    add("strategy", [s.strategy for s in records])
    add("steps", [f"{s.num_steps:,}" for s in records])
    for direction, arrow in _DIRECTIONS.items():
        for metric in _METRICS:
            name = f"{direction}/{metric}"
            add(f"{_spell(metric)} {arrow}", [f"{s.rounds[-1][name]:.4f}" for s in records])
    for number in range(max(len(s.rounds) for s in records)):
        add(
            f"MRR u -> v after round {number}",
            [
                f"{s.rounds[number]['u_to_v/mrr']:.4f}" if number < len(s.rounds) else ""
                for s in records
            ],
        )
    add("loss of its batches / of random ones", [_spell_hardness(s) for s in records])
    add("alarms", [str(len(s.alarms)) for s in records])
    for stage in STAGES:
        add(f"seconds: {stage}", [f"{s.seconds.get(stage, 0):.1f}" for s in records])
    add("seconds: selection (embed + select)", [f"{s.selection_s:.1f}" for s in records])
    add("seconds: training + selection", [f"{s.learning_s:.1f}" for s in records])
    return rows


def _spell(metric: str) -> str:
    return "MRR" if metric == "mrr" else metric.replace("_at_", "@")


def _spell_hardness(record: Record) -> str:
    if record.hardness is None:
        return "1 (random)"
    chosen, random = record.hardness
    ratio = f" = {chosen / random:.2f}" if random else ""
    return f"{chosen:.3f} / {random:.3f}{ratio}"


def to_text(rows: Sequence[Sequence[str]]) -> str:
    """A table as aligned Markdown."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]

    def line(row: Sequence[str]) -> str:
        first, *others = (
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return f"| {' | '.join([first, *others])} |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([line(rows[0]), line(rule), *(line(row) for row in rows[1:])])
