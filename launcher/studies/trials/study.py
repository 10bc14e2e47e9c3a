"""A study from its file to its tables: trials at equal steps, their prices, trials at equal seconds, what they say.

STUDY_DIR/trials/BUDGET/ARM/seed-N    a run directory each
STUDY_DIR/logs/                       what each trial printed
STUDY_DIR/prices.json                 seconds of a step, of a start, of a refresh by arm
STUDY_DIR/results.json, table.md, curves.png, differences.png
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from launcher.config import RunConfig, differences
from launcher.console import say
from launcher.record import Record, read_record
from launcher.run_dir import RunDir
from launcher.shadows import check_working_folder
from launcher.studies.trials.arms import Arm, build_arms
from launcher.studies.trials.config import StudyConfig, trial_config
from launcher.studies.trials.figures import draw
from launcher.studies.trials.pairs import check_same_pairs, count_pairs
from launcher.studies.trials.plan import STEPS, Trial, seconds_trials, steps_trials
from launcher.studies.trials.prices import (
    Prices,
    RoundCost,
    keep_prices,
    known_or_found,
    price,
    read_prices,
    round_costs,
)
from launcher.studies.trials.results import (
    Result,
    read_result,
    score_name,
    summarize_arms,
    to_json,
)
from launcher.studies.trials.runner import Outcome, run_trials
from launcher.studies.trials.tables import page
from selection.artifacts import atomic_file, write_json
from selection.errors import ConfigError, JobError
from selection.progress import Progress

PRICES = "prices.json"
RESULTS = "results.json"
TABLE = "table.md"


def run_study(study: StudyConfig, progress: Progress, most: int | None = None) -> None:
    """Do the trials that are not done yet, and write what all of them say.

    Args:
        study: what to do.
        progress: told of finished trials.
        most: trials to do in this call; None does all.

    Raises:
        ConfigError: an arm is wrong, or a trial's folder belongs to another configuration.
        JobError: a trial failed; the others were done.
    """
    check_working_folder()  # here, as a trial would fail at its first import
    arms = build_arms(study)
    num_pairs = count_pairs(study, progress)
    trials = steps = steps_trials(study, arms, num_pairs)
    check_same_pairs([record for _, record in _finished(steps)])  # also before hours of others
    try:
        trials = steps + _settled_trials(study, arms, num_pairs, steps)
        left = _do(study, steps, progress, most)
        if study.shares and (prices := final_prices(study, steps)):
            more = seconds_trials(study, arms, num_pairs, prices, steps)
            trials = steps + more
            _do(study, more, progress, left)
    except (ConfigError, JobError):
        write_results(study, trials)  # what is finished says something
        raise
    write_results(study, trials)


def _settled_trials(
    study: StudyConfig, arms: Sequence[Arm], num_pairs: int, steps: Sequence[Trial]
) -> list[Trial]:
    """The trials at equal seconds of those arms whose prices an earlier call has settled; arms and seeds may be new."""
    known = read_prices(study.study_dir / PRICES, _shared_hash(study))
    priced = [arm for arm in arms if known and arm.name in known.refresh_s]
    if known is None or study.reference not in [arm.name for arm in priced]:
        return []
    return seconds_trials(study, priced, num_pairs, known, steps)


def plan_study(study: StudyConfig, progress: Progress) -> list[str]:
    """One line per trial that is known now: those at equal seconds follow from the prices of the others."""
    arms = build_arms(study)
    num_pairs = count_pairs(study, progress)
    trials = steps = steps_trials(study, arms, num_pairs)
    if len(finished := _finished(steps)) == len(steps):  # asking settles no price
        trials = steps + seconds_trials(study, arms, num_pairs, _prices(study, finished), steps)
    else:
        trials = steps + _settled_trials(study, arms, num_pairs, steps)
    return [
        f"{trial.budget}  {trial.arm}  seed {trial.seed}: {trial.config.rounds} rounds, "
        f"{trial.config.train.num_steps:,} steps{', finished' if finished_record(trial) else ''}"
        for trial in trials
    ]


def finished_record(trial: Trial) -> Record | None:
    """What a trial wrote, if all its rounds are judged.

    Raises:
        ConfigError: its folder belongs to another configuration.
    """
    root = trial.config.run_dir
    if not RunDir(root).config.is_file():
        return None
    record = read_record(root)
    if changed := differences(record.config, trial.config):
        raise ConfigError(
            f"{root}: is a trial of another configuration ({'; '.join(changed[:3])}); take another study_dir, or "
            "delete that folder"
        )
    return record if record.is_finished else None


def final_prices(study: StudyConfig, trials: Sequence[Trial]) -> Prices | None:
    """Prices of a study whose trials at equal steps are all finished; they are kept from then on."""
    finished = _finished(trials)
    if len(finished) < len(trials):
        return None
    return keep_prices(study.study_dir / PRICES, _shared_hash(study), _price(finished))


def write_results(study: StudyConfig, trials: Sequence[Trial]) -> None:
    """Write `results.json`, `table.md` and the pictures from the trials that are finished; nothing from none."""
    finished = _finished(trials)
    if not finished:
        return
    check_same_pairs([record for _, record in finished])
    prices = _prices(study, finished)
    results = [read_result(trial, record, prices, study) for trial, record in finished]
    tell(study, prices, results, study.study_dir)


def tell(study: StudyConfig, prices: Prices, results: Sequence[Result], folder: Path) -> None:
    """Write everything that results say into a folder."""
    summaries = summarize_arms(results, study.reference, STEPS)
    write_json(folder / RESULTS, to_json(study, prices, results, summaries))
    with atomic_file(folder / TABLE, "w") as file:
        file.write(page(study, prices, summaries))
    draw(folder, results, summaries, study.reference, score_name(study))


def _finished(trials: Sequence[Trial]) -> list[tuple[Trial, Record]]:
    return [(trial, record) for trial in trials if (record := finished_record(trial))]


def _prices(study: StudyConfig, finished: Sequence[tuple[Trial, Record]]) -> Prices:
    """What is settled, and otherwise what is known so far."""
    return known_or_found(study.study_dir / PRICES, _shared_hash(study), _price(finished))


def _shared_hash(study: StudyConfig) -> str:
    """Of what all trials have in common."""
    return trial_config(study, {}).hash


def _price(finished: Sequence[tuple[Trial, Record]]) -> Prices:
    """Of what is finished at equal steps."""
    costs: dict[str, list[RoundCost]] = defaultdict(list)
    for trial, record in finished:
        if trial.budget == STEPS:
            costs[trial.arm] += round_costs(record)
    return price(costs)


def _do(
    study: StudyConfig, trials: Sequence[Trial], progress: Progress, most: int | None
) -> int | None:
    """Do unfinished trials, `most` at most; returns how many may still be done in this call."""
    missing = [trial for trial in trials if finished_record(trial) is None]
    chosen = missing[:most]
    if not chosen:
        return most
    num_done, failed = len(trials) - len(missing), []
    progress("trials", num_done, len(trials), "trials")
    cpus = study.cpus_per_trial or ranks_cpus(chosen[0].config)
    for outcome in run_trials(chosen, study.trials_at_once, cpus, study.study_dir / "logs"):
        num_done += outcome.status == 0
        failed += [outcome] if outcome.status else []
        say(_describe(outcome, score_name(study)))
        progress("trials", num_done, len(trials), "trials")
    if failed:
        raise JobError(
            f"{len(failed)} of {len(chosen)} trials failed, the first says why in {failed[0].log}"
        )
    return None if most is None else most - len(chosen)


def ranks_cpus(config: RunConfig) -> int:
    """CPUs that the ranks of a run need."""
    return math.ceil(config.train.num_ranks * config.train.cpus_per_rank)


def _describe(outcome: Outcome, score: str) -> str:
    trial = outcome.trial
    name = f"{trial.budget}  {trial.arm}  seed {trial.seed}"
    if outcome.status:
        return f"{name}: failed with status {outcome.status}, see {outcome.log}"
    return f"{name}: {score} {read_record(trial.config.run_dir).rounds[-1][score]:.4f}"
