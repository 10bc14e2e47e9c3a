"""Runs side by side: one table of retrieval, hardness and seconds, from what the runs wrote down."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.run_dir import RunDir, open_run, read_lines
from selection.errors import ConfigError
from selection.schedule import open_schedule, schedule_folder

_METRICS = ("mrr", "recall_at_1", "recall_at_5", "recall_at_10")
_DIRECTIONS = {"u_to_v": "u -> v", "v_to_u": "v -> u"}
_SELECTION_STAGES = ("embed", "select")
_STAGES = ("index", "encoder", "embed", "select", "train", "judge")


@dataclass(frozen=True)
class Summary:
    """What a finished run amounts to."""

    name: str
    strategy: str
    rounds: list[dict]
    """Retrieval metrics by round."""

    hardness: tuple[float, float] | None
    """Mean loss of the chosen batches and of random ones, over the selected rounds, same embeddings."""

    seconds: dict[str, float]
    """Seconds by stage."""

    num_steps: int

    num_alarms: int
    """Alarms in the manifests of its schedules."""

    @property
    def selection_s(self) -> float:
        """Seconds that choosing batches took."""
        return sum(self.seconds.get(stage, 0.0) for stage in _SELECTION_STAGES)

    @property
    def learning_s(self) -> float:
        """Seconds of training and of selection, which is what a strategy costs."""
        return self.seconds.get("train", 0.0) + self.selection_s


def summarize(root: Path) -> Summary:
    """Read what a run wrote.

    Raises:
        ConfigError: it is no run, or has not finished a round.
    """
    run_dir, config = open_run(root)
    results = sorted(read_lines(run_dir.results), key=lambda result: result["round"])
    if not results:
        raise ConfigError(f"{root}: no round is finished yet; `coterie run` goes on with it")
    seconds: dict[str, float] = defaultdict(float)
    for line in read_lines(run_dir.stages):
        seconds[line["stage"]] += line["seconds"]
    manifests = _manifests(run_dir, len(results))
    return Summary(
        name=root.name,
        strategy=config.selection.strategy,
        rounds=results,
        hardness=_hardness(manifests),
        seconds=dict(seconds),
        num_steps=results[-1]["step"],
        num_alarms=sum(len(manifest.get("alarms", [])) for manifest in manifests),
    )


def _manifests(run_dir: RunDir, num_rounds: int) -> list[dict[str, Any]]:
    folders = (schedule_folder(run_dir.schedules, number) for number in range(num_rounds))
    return [open_schedule(folder).manifest for folder in folders]


def _hardness(manifests: Sequence[dict[str, Any]]) -> tuple[float, float] | None:
    chosen = [manifest for manifest in manifests if "batch_loss" in manifest]
    if not chosen:
        return None
    losses = (
        sum(m[name] for m in chosen) / len(chosen) for name in ("batch_loss", "random_batch_loss")
    )
    return next(losses), next(losses)


def comparison(summaries: Sequence[Summary]) -> list[list[str]]:
    """Rows of the table: a heading, then one row per quantity, one column per run."""
    rows = [["", *(summary.name for summary in summaries)]]

    def add(label: str, cells: list[str]) -> None:
        rows.append([label, *cells])

    add("strategy", [s.strategy for s in summaries])
    add("steps", [f"{s.num_steps:,}" for s in summaries])
    for direction, arrow in _DIRECTIONS.items():
        for metric in _METRICS:
            name = f"{direction}/{metric}"
            add(f"{_spell(metric)} {arrow}", [f"{s.rounds[-1][name]:.4f}" for s in summaries])
    for number in range(max(len(s.rounds) for s in summaries)):
        add(
            f"MRR u -> v after round {number}",
            [
                f"{s.rounds[number]['u_to_v/mrr']:.4f}" if number < len(s.rounds) else ""
                for s in summaries
            ],
        )
    add("loss of its batches / of random ones", [_spell_hardness(s) for s in summaries])
    add("alarms", [str(s.num_alarms) for s in summaries])
    for stage in _STAGES:
        add(f"seconds: {stage}", [f"{s.seconds.get(stage, 0):.1f}" for s in summaries])
    add("seconds: selection (embed + select)", [f"{s.selection_s:.1f}" for s in summaries])
    add("seconds: training + selection", [f"{s.learning_s:.1f}" for s in summaries])
    return rows


def _spell(metric: str) -> str:
    return "MRR" if metric == "mrr" else metric.replace("_at_", "@")


def _spell_hardness(summary: Summary) -> str:
    if summary.hardness is None:
        return "1 (random)"
    chosen, random = summary.hardness
    return f"{chosen:.3f} / {random:.3f} = {chosen / random:.2f}"


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
