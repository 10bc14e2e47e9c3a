"""Which trials a study has, and how long each is; pure, so that a dry run shows just what would be done.

At equal steps every arm takes the steps of the base's epochs. At equal seconds it takes as many as fit beside its own
selections, and its learning rate falls over just those: a run that is cut off at some second would be judged before its
learning rate has fallen, which no one who has only so much time would do.

Seconds are counted in steps. A budget of b steps with r rounds of s steps, and a refresh that costs c steps before each
round but the first, leaves b - c (r - 1) steps. r is the largest number whose last round is at least half
a round; what is left over goes into the last round, so that nothing of the budget is lost.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from launcher.config import RunConfig
from launcher.studies.trials.arms import Arm, arm_folder
from launcher.studies.trials.config import StudyConfig, trial_config
from launcher.studies.trials.prices import Prices
from selection.errors import ConfigError
from selection.strategies import plan_num_batches

STEPS = "steps"
"""Name of the budget of equal steps."""


@dataclass(frozen=True)
class Trial:
    """One run of a study."""

    arm: str
    seed: int
    budget: str
    config: RunConfig


@dataclass(frozen=True)
class Length:
    """How long a run is."""

    rounds: int
    num_steps: int


def seconds_budget(share: float) -> str:
    """Name of the budget of a share of the reference's seconds."""
    return f"seconds-{share:g}"


def steps_trials(study: StudyConfig, arms: Sequence[Arm], num_pairs: int) -> list[Trial]:
    """The trials at equal steps, seed by seed, so that a study that is cut short has whole seeds."""
    total = reference_steps(study, num_pairs)
    lengths = {arm.name: run_length(total, 0, *round_steps(arm.config, num_pairs)) for arm in arms}
    return _trials(study, arms, STEPS, lengths)


def seconds_trials(
    study: StudyConfig,
    arms: Sequence[Arm],
    num_pairs: int,
    prices: Prices,
    done: Sequence[Trial] = (),
) -> list[Trial]:
    """The trials at equal seconds; the reference needs none at a share, as all are compared with all its steps.

    Args:
        study: its shares, and its reference.
        arms: all of them.
        num_pairs: N of the training pairs.
        prices: what steps and refreshes cost.
        done: other trials; one that is the same run, as that of the reference at its own budget is, shares its folder.

    Raises:
        ConfigError: a share leaves no time for a step.
    """
    trials = []
    total = reference_steps(study, num_pairs)
    reference = next(arm for arm in arms if arm.name == study.reference)
    rounds = run_length(total, 0, *round_steps(reference.config, num_pairs)).rounds
    total_s = prices.seconds(study.reference, total, rounds - 1)
    for share in study.shares:
        compared = [arm for arm in arms if arm is not reference or share == 1]
        budget = (share * total_s - prices.start_s) / prices.step_s
        if budget < 1:
            raise ConfigError(
                f"shares: {share:g} of the {total_s:.0f} s of {study.reference} is less than "
                f"the {prices.start_s:.0f} s that the ranks take to start; give a larger one"
            )
        lengths = {
            arm.name: run_length(
                budget,
                prices.refresh_s[arm.name] / prices.step_s,
                *round_steps(arm.config, num_pairs),
            )
            for arm in compared
        }
        trials += _trials(study, compared, seconds_budget(share), lengths)
    known = {trial.config.hash: trial.config for trial in done}
    return [replace(trial, config=known.get(trial.config.hash, trial.config)) for trial in trials]


def reference_steps(study: StudyConfig, num_pairs: int) -> int:
    """Steps of the base's epochs with all pairs."""
    base = trial_config(study, {})
    epochs = base.rounds * base.selection.refresh.epochs_per_round
    return epochs * (num_pairs // base.train.batch_size)


def round_steps(config: RunConfig, num_pairs: int) -> tuple[int, int]:
    """Steps of the first round, whose batches are random, and of each later one."""
    epochs, batch_size = config.selection.refresh.epochs_per_round, config.train.batch_size
    later = plan_num_batches(config.selection, num_pairs, batch_size)
    return epochs * (num_pairs // batch_size), epochs * later


def run_length(budget: float, refresh: float, first_round: int, later_round: int) -> Length:
    """Rounds and steps that fit into a budget.

    Args:
        budget: in steps.
        refresh: cost of a selection, in steps.
        first_round: steps of the first round.
        later_round: steps of each later one.
    """
    rounds = 1
    least = max(1.0, later_round / 2)  # of a last round
    while budget - refresh * rounds >= first_round + (rounds - 1) * later_round + least:
        rounds += 1
    return Length(rounds, max(1, round(budget - refresh * (rounds - 1))))


def trial_folder(study_dir: Path, budget: str, arm: str, seed: int) -> Path:
    """The run directory of a trial."""
    return study_dir / "trials" / budget / arm_folder(arm) / f"seed-{seed}"


def _trials(
    study: StudyConfig, arms: Sequence[Arm], budget: str, lengths: Mapping[str, Length]
) -> list[Trial]:
    trials = []
    for seed in study.seeds:
        for arm in arms:
            length = lengths[arm.name]
            own = {
                "seed": seed,
                "run_dir": str(trial_folder(study.study_dir, budget, arm.name, seed)),
                "rounds": length.rounds,
                "train.num_steps": length.num_steps,
            }
            config = trial_config(study, {**arm.overrides, **own})
            trials.append(Trial(arm.name, seed, budget, config))
    return trials
