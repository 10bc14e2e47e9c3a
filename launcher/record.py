"""What a run has written down so far, read back: the one reader behind `coterie compare` and `coterie report`.

It reads a run that is under way as well as a finished one, and changes nothing.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from launcher.config import RunConfig
from launcher.run_dir import VERSIONS, RunDir, open_run, read_lines
from selection.artifacts import MANIFEST, read_manifest
from selection.schedule import KIND as SCHEDULE_KIND

SELECTION_STAGES = ("embed", "select")
LEARNING_STAGES = (*SELECTION_STAGES, "train")
STAGES = ("index", "encoder", *LEARNING_STAGES, "judge")
_BESIDE_TRAINING = (*SELECTION_STAGES, "judge")


@dataclass(frozen=True)
class Record:
    """What a run amounts to so far."""

    name: str
    """Name of its folder."""

    dir: RunDir
    config: RunConfig

    rounds: list[dict[str, Any]]
    """Retrieval metrics of the rounds that are finished."""

    lines: list[dict[str, Any]]
    """Metrics of training, by logging step."""

    stages: list[dict[str, Any]]
    """Stage, round, seconds and time of its end; training that no stage accounts for yet is one as well."""

    manifests: list[dict[str, Any]]
    """Of the schedules, by round; there may be one more than there are finished rounds."""

    examples: dict[int, list[dict[str, Any]]]
    """Batches to look at, by round, see `selection.examples`."""

    versions: dict[str, str]
    """What the last attempt ran on."""

    @property
    def strategy(self) -> str:
        """What chose its batches."""
        return self.config.selection.strategy

    @property
    def is_finished(self) -> bool:
        """Whether all rounds are."""
        return len(self.rounds) == self.config.rounds

    @property
    def num_steps(self) -> int:
        """Steps that are known to be taken."""
        return max((line["step"] for line in (*self.rounds, *self.lines)), default=0)

    @property
    def last_time(self) -> datetime | None:
        """When it last wrote something down, in UTC."""
        times = [line["time"] for line in (*self.rounds, *self.lines, *self.stages)]
        return datetime.fromtimestamp(max(times), UTC) if times else None

    @cached_property
    def seconds(self) -> dict[str, float]:
        """Seconds by stage."""
        seconds: dict[str, float] = defaultdict(float)
        for line in self.stages:
            seconds[line["stage"]] += line["seconds"]
        return dict(seconds)

    @property
    def selection_s(self) -> float:
        """Seconds that choosing batches took."""
        return sum(self.seconds.get(stage, 0.0) for stage in SELECTION_STAGES)

    @property
    def learning_s(self) -> float:
        """Seconds of training and of selection, which is what a strategy costs; where they overlap, they count once."""
        return sum(seconds for _, seconds in self._learning)

    @cached_property
    def _learning(self) -> list[tuple[float, float]]:
        """Start and seconds of training and of selection, without what another one of them has covered before."""
        found, covered_until = [], 0.0
        spans = [
            (line["time"] - line["seconds"], line["seconds"])
            for line in self.stages
            if line["stage"] in LEARNING_STAGES
        ]
        for start, seconds in sorted(spans):
            twice = min(max(0.0, covered_until - start), seconds)
            found.append((start + twice, seconds - twice))
            covered_until = max(covered_until, start + seconds)
        return found

    @property
    def hardness(self) -> tuple[float, float] | None:
        """Mean loss of the chosen batches and of random ones, over the selected rounds, same embeddings."""
        chosen = [manifest for manifest in self.manifests if "batch_loss" in manifest]
        if not chosen:
            return None
        loss, random_loss = (
            sum(manifest[name] for manifest in chosen) / len(chosen)
            for name in ("batch_loss", "random_batch_loss")
        )
        return loss, random_loss

    @property
    def embedding_age(self) -> float | None:
        """Steps since the embeddings that a batch was chosen from, mean over the steps of the selected rounds."""
        ends = {line["round"]: line["step"] for line in self.rounds}
        selected = [m for m in self.manifests if m.get("staleness_steps") is not None]
        known = [m for m in selected if m["round"] in ends]
        taken = [ends[m["round"]] - ends.get(m["round"] - 1, 0) for m in known]
        ages = [m["staleness_steps"] + steps / 2 for m, steps in zip(known, taken, strict=True)]
        return float(np.average(ages, weights=taken)) if known else None

    @property
    def alarms(self) -> list[tuple[int, str]]:
        """Round and text of every alarm in the manifests of its schedules."""
        return [(m["round"], text) for m in self.manifests for text in m.get("alarms", [])]

    def learning_seconds_at(self, times: Float64[np.ndarray, "t"]) -> Float64[np.ndarray, "t"]:
        """Seconds of training and selection before each point in time; those of judging do not count."""
        total = np.zeros(len(times))
        for start, seconds in self._learning:
            total += np.clip(times - start, 0, seconds)
        return total


def read_record(root: Path) -> Record:
    """Read what a run wrote.

    Raises:
        ConfigError: it is no run.
        ArtifactError: a schedule of it is damaged.
    """
    run_dir, config = open_run(root)
    lines = read_lines(run_dir.training)
    folders = sorted(path.parent for path in run_dir.schedules.glob(f"round-*/{MANIFEST}"))
    return Record(
        name=run_dir.root.name,
        dir=run_dir,
        config=config,
        rounds=sorted(read_lines(run_dir.results), key=lambda result: result["round"]),
        lines=lines,
        stages=with_unfinished(
            read_lines(run_dir.stages),
            lines,
            beside=_BESIDE_TRAINING if config.selection.overlaps else (),
        ),
        manifests=[read_manifest(folder, SCHEDULE_KIND, hashes=False) for folder in folders],
        examples={line["round"]: line["batches"] for line in read_lines(run_dir.examples)},
        versions=_read_versions(run_dir),
    )


def with_unfinished(
    stages: list[dict[str, Any]], lines: list[dict[str, Any]], beside: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Add the training that no stage accounts for, because it goes on, or its attempt was killed.

    It began when the stage before it ended, and lasted to its last line of metrics at least.

    Args:
        stages: that are over.
        lines: metrics of training.
        beside: stages that training goes on beside, so that it does not begin when they end.
    """
    known = [stage for stage in stages if stage["stage"] not in beside]
    known.sort(key=lambda stage: stage["time"])
    ends = [stage["time"] for stage in known]
    starts = [stage["time"] - stage["seconds"] for stage in known]
    unfinished = []
    for end, next_start in zip(ends, [*starts[1:], float("inf")], strict=False):
        between = [line for line in lines if end < line["time"] < next_start]
        if between:
            last = between[-1]
            seconds, time = last["time"] - end, last["time"]
            unfinished.append(
                {"stage": "train", "round": last["round"], "seconds": seconds, "time": time}
            )
    return sorted([*stages, *unfinished], key=lambda stage: stage["time"])


def _read_versions(run_dir: RunDir) -> dict[str, str]:
    """Of the last attempt; none where an older Coterie did not note them."""
    files = sorted(run_dir.root.glob(f"logs/attempt-*/{VERSIONS}"))
    return json.loads(files[-1].read_text()) if files else {}


def distinct_names(roots: Sequence[Path]) -> list[str]:
    """The last parts of paths, as many as it takes to tell those apart that differ."""
    longest = max(len(root.parts) for root in roots)
    ends = (["/".join(root.parts[-depth:]) for root in roots] for depth in range(1, longest + 1))
    return next(names for names in ends if len(set(names)) == len(set(roots)))
