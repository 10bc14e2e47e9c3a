"""What a step and a selection cost: medians over the trials at equal steps, so that a disturbed minute decides nothing.

Arms differ in how they choose batches and in nothing else, so a step costs the same in all of them, and its price is
the median over all rounds of all arms. A refresh costs what embedding and selection took for that arm, and what the
training of a round takes beside its steps: a checkpoint, and a start of the ranks where they are not kept. A run that
never selects could train in one go, so it pays for one start, whatever its number of rounds. Judging is not counted,
and neither are the index and the tokenizer.

    seconds(steps, refreshes) = start_s + steps * step_s + refreshes * refresh_s
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

from launcher.record import SELECTION_STAGES, Record
from selection.artifacts import write_json


@dataclass(frozen=True)
class RoundCost:
    """What one round of one trial took."""

    is_first: bool
    num_steps: int
    steps_s: float
    """Seconds in which steps were taken."""

    train_s: float
    """Seconds of the whole stage: start of the ranks, steps, checkpoints."""

    selection_s: float
    """Seconds of embedding and selection before it; 0 where nothing was selected."""

    num_starts: int = 1
    """How often its training began; more than once where it was interrupted."""

    is_whole: bool = True
    """Whether nothing interrupted it, training or selection."""


@dataclass(frozen=True)
class Prices:
    """Seconds of everything that an arm does."""

    step_s: float
    start_s: float
    """Start of the ranks."""

    refresh_s: dict[str, float]
    """By arm; 0 for those that never select."""

    def seconds(self, arm: str, num_steps: int, num_refreshes: int) -> float:
        """Price of a run."""
        return self.start_s + num_steps * self.step_s + num_refreshes * self.refresh_s[arm]

    def by_ends(self, arm: str, steps: Sequence[int]) -> list[float]:
        """Price by the last step of each round, given the steps taken by then."""
        return [self.seconds(arm, count, number) for number, count in enumerate(steps)]

    def by_starts(self, arm: str, steps: Sequence[int]) -> list[float]:
        """Price by the first step of each round, its refresh included."""
        return self.by_ends(arm, [0, *steps[:-1]])


def round_costs(record: Record) -> list[RoundCost]:
    """What the rounds of a run took, in all attempts together."""
    stages: dict[tuple[str, int], list[float]] = defaultdict(list)
    for line in record.stages:
        stages[line["stage"], line["round"]].append(line["seconds"])
    costs = []
    for number in range(len(record.rounds)):
        trained = stages["train", number]
        chosen = [stages[stage, number] for stage in SELECTION_STAGES]
        num_steps, steps_s = _steps_of_round(record, number)
        costs.append(
            RoundCost(
                is_first=number == 0,
                num_steps=num_steps,
                steps_s=steps_s,
                train_s=sum(trained),
                selection_s=sum(map(sum, chosen)),
                num_starts=max(1, len(trained)),
                is_whole=len(trained) == 1 and all(len(times) <= 1 for times in chosen),
            )
        )
    return costs


def _steps_of_round(record: Record, number: int) -> tuple[int, float]:
    """Steps of a round, and the seconds in which they were taken, checkpoints left out."""
    batch_size = record.config.train.batch_size
    total, total_s, before = 0, 0.0, 0
    for line in record.lines:
        steps, before = line["step"] - before, line["step"]
        if line["round"] == number:
            total += steps
            total_s += steps * batch_size / line["perf/samples_per_s"]
    return total, total_s


def price(costs: Mapping[str, Iterable[RoundCost]]) -> Prices:
    """Medians over the rounds of the trials at equal steps, by arm; every arm must have a round.

    Rounds that were interrupted count only where there are no others.
    """
    by_arm = {arm: list(rounds) for arm, rounds in costs.items()}
    everything = [cost for rounds in by_arm.values() for cost in rounds]
    firsts = _whole([cost for cost in everything if cost.is_first])

    def refresh_s(rounds: list[RoundCost]) -> float:
        refreshes = [
            cost.selection_s + cost.train_s - cost.steps_s
            for cost in _whole([cost for cost in rounds if cost.selection_s])
        ]
        return median(refreshes) if refreshes else 0.0

    return Prices(
        step_s=median(cost.steps_s / cost.num_steps for cost in _whole(everything)),
        start_s=median((cost.train_s - cost.steps_s) / cost.num_starts for cost in firsts),
        refresh_s={arm: refresh_s(rounds) for arm, rounds in by_arm.items()},
    )


def _whole(costs: list[RoundCost]) -> list[RoundCost]:
    """Those that nothing interrupted, if there are any."""
    return [cost for cost in costs if cost.is_whole] or costs


def keep_prices(path: Path, config_hash: str, found: Prices) -> Prices:
    """Prices for good: what is in the file already stays, or trials under way would change their length.

    Args:
        path: the file.
        config_hash: of what all trials have in common; prices of others are replaced.
        found: what the trials say.
    """
    kept = known_or_found(path, config_hash, found)
    write_json(path, {"config_hash": config_hash, **asdict(kept)})
    return kept


def known_or_found(path: Path, config_hash: str, found: Prices) -> Prices:
    """What is in the file, and for arms that came later what was found; arguments as for `keep_prices`."""
    known = read_prices(path, config_hash) or found
    return replace(known, refresh_s={**found.refresh_s, **known.refresh_s})


def read_prices(path: Path, config_hash: str) -> Prices | None:
    """Prices that were kept; None where there are none yet, or those of another configuration."""
    kept = json.loads(path.read_text()) if path.is_file() else {}
    return Prices(**kept) if kept.pop("config_hash", None) == config_hash else None
