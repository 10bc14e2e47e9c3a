"""What the finished trials of a study say: curves by trial, and each arm against the reference over the seeds.

Legend of words: a *curve* is a score after each round, with the steps and the seconds by then.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from launcher.record import Record
from launcher.studies.trials.config import StudyConfig
from launcher.studies.trials.plan import Trial
from launcher.studies.trials.prices import Prices
from launcher.studies.trials.statistics import (
    Interval,
    mean_interval,
    paired_interval,
    time_to_reach,
)


@dataclass(frozen=True)
class Result:
    """A finished trial."""

    arm: str
    seed: int
    budget: str
    steps: list[int]
    """Taken by the end of each round."""

    starts: list[float]
    """Price by the first step of each round, see `prices`."""

    seconds: list[float]
    """Price by its last one."""

    scores: list[float]
    """Retrieval on the split of the study."""

    measured_s: float
    """Seconds of training and selection by the clock of this trial, starts of ranks included."""

    age_steps: float | None
    """Mean age of the embeddings that its batches were chosen from, while those were trained."""


@dataclass(frozen=True)
class ArmSummary:
    """An arm at one budget, over the seeds that are finished."""

    arm: str
    budget: str
    num_seeds: int
    final: Interval
    best: Interval
    """Of the best round of each trial; biased upwards, more so for arms with more rounds."""

    difference: Interval | None
    """Final score minus that of the reference with all its steps, of the seeds that both have; None where there is
    none. At a share of its seconds, an arm that is ahead needs no more than that share."""

    num_rounds: int
    num_steps: float
    seconds: float
    measured_s: float
    age_steps: float | None
    reach: Interval | None
    """Seconds until the final score of the reference at equal steps, as a share of the reference's seconds; None where
    not every seed gets there. The reference, too, may be there before its end."""

    num_reached: int
    num_compared: int
    """Seeds that this arm and the reference have in common."""


def read_result(trial: Trial, record: Record, prices: Prices, study: StudyConfig) -> Result:
    """Read a finished trial."""
    steps = [line["step"] for line in record.rounds]
    return Result(
        arm=trial.arm,
        seed=trial.seed,
        budget=trial.budget,
        steps=steps,
        starts=prices.by_starts(trial.arm, steps),
        seconds=prices.by_ends(trial.arm, steps),
        scores=[line[score_name(study)] for line in record.rounds],
        measured_s=record.learning_s,
        age_steps=record.embedding_age,
    )


def score_name(study: StudyConfig) -> str:
    """The score that is compared, as `metrics/rounds.jsonl` calls it."""
    return study.metric if study.split == "heldout" else f"{study.split}/{study.metric}"


def summarize_arms(
    results: Sequence[Result], reference: str, reference_budget: str
) -> list[ArmSummary]:
    """Each arm at each budget, in the order of `results`.

    Args:
        results: of all finished trials.
        reference: name of the arm that all are compared with.
        reference_budget: its budget whose final score is compared with.
    """
    by_key: dict[tuple[str, str], dict[int, Result]] = {}
    for result in results:
        by_key.setdefault((result.budget, result.arm), {})[result.seed] = result
    targets = by_key.get((reference_budget, reference), {})
    return [_summarize(own, targets) for own in by_key.values()]


def _summarize(own: dict[int, Result], targets: dict[int, Result]) -> ArmSummary:
    first = next(iter(own.values()))
    finals = {seed: result.scores[-1] for seed, result in own.items()}
    shared = [seed for seed in own if seed in targets]
    times = {
        seed: time_to_reach(
            own[seed].starts, own[seed].seconds, own[seed].scores, targets[seed].scores[-1]
        )
        for seed in shared
    }
    reached = [time / targets[seed].seconds[-1] for seed, time in times.items() if time is not None]
    others = [targets[seed].scores[-1] for seed in shared]
    ages = [result.age_steps for result in own.values() if result.age_steps is not None]
    return ArmSummary(
        arm=first.arm,
        budget=first.budget,
        num_seeds=len(own),
        final=mean_interval(list(finals.values())),
        best=mean_interval([max(result.scores) for result in own.values()]),
        difference=paired_interval([finals[s] for s in shared], others) if shared else None,
        num_rounds=len(first.steps),
        num_steps=_mean([result.steps[-1] for result in own.values()]),
        seconds=_mean([result.seconds[-1] for result in own.values()]),
        measured_s=_mean([result.measured_s for result in own.values()]),
        age_steps=_mean(ages) if ages else None,
        reach=mean_interval(reached) if reached and len(reached) == len(times) else None,
        num_reached=len(reached),
        num_compared=len(times),
    )


def to_json(
    study: StudyConfig, prices: Prices, results: Sequence[Result], summaries: Sequence[ArmSummary]
) -> dict[str, Any]:
    """Everything that tables and figures are made from."""
    return {
        "study": study.model_dump(mode="json"),
        "prices": asdict(prices),
        "trials": [asdict(result) for result in results],
        "arms": [asdict(summary) for summary in summaries],
    }


def _mean(values: Sequence[float]) -> float:
    return mean_interval(values).mean
