from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.studies.trials.arms import build_arms
from launcher.studies.trials.config import Metric
from launcher.studies.trials.plan import run_length, seconds_trials, steps_trials
from launcher.studies.trials.prices import Prices
from selection.errors import ConfigError
from tests.unit.launcher.studies.trials.conftest import NUM_PAIRS, STEPS_PER_EPOCH
from trainer.evaluate import retrieval_metrics

counts = st.integers(1, 50)


@pytest.mark.parametrize(
    ("budget", "refresh", "rounds", "num_steps"),
    [
        (30, 0, 3, 30),  # three whole rounds of ten
        (34, 0, 3, 34),  # less than half a round more goes into the last
        (35, 0, 4, 35),  # half a round is one of its own
        (30, 5, 2, 25),  # a second selection would leave no half round: 30 - 2 x 5 < 25
        (35, 5, 3, 25),
        (9, 0, 1, 9),
        (14, 100, 1, 14),  # a selection costs more than there is
    ],
)
def test_run_length(budget, refresh, rounds, num_steps):
    found = run_length(budget, refresh, first_round=10, later_round=10)
    assert (found.rounds, found.num_steps) == (rounds, num_steps)


@given(st.floats(1, 2000), st.floats(0, 100), counts, counts)
def test_a_run_uses_its_budget_and_has_a_last_round(budget, refresh, first_round, later_round):
    found = run_length(budget, refresh, first_round, later_round)
    spent = found.num_steps + refresh * (found.rounds - 1)
    assert abs(spent - budget) <= 0.5 + 1e-6
    before_last = first_round + (found.rounds - 2) * later_round if found.rounds > 1 else 0
    assert found.num_steps > before_last
    # one more round would have had less than half its steps
    left = budget - refresh * found.rounds - (first_round + (found.rounds - 1) * later_round)
    assert left < max(1, 0.5 * later_round) + 1e-6


def test_equal_steps(make_study):
    study = make_study(
        arms={
            "random": {"selection.strategy": "random"},
            "rare": {"selection.strategy": "spectral", "selection.refresh.epochs_per_round": 3},
            "osgd": {
                "selection.strategy": "osgd",
                "selection.osgd.num_candidates": 10,
                "selection.osgd.num_kept": 2,
            },
        }
    )
    trials = steps_trials(study, build_arms(study), NUM_PAIRS)
    assert [(t.arm, t.seed) for t in trials[:4]] == [
        ("random", 0), ("rare", 0), ("osgd", 0), ("random", 1),
    ]  # fmt: skip
    assert {trial.config.train.num_steps for trial in trials} == {3 * STEPS_PER_EPOCH}
    assert [t.config.rounds for t in trials[:3]] == [3, 1, 11]  # osgd: 10 steps, then 2 a round
    assert len({trial.config.run_dir for trial in trials}) == len(trials)
    assert all(trial.config.seed == trial.seed for trial in trials)


def test_equal_seconds(make_study):
    """One step is 1 s, a start 5 s, a refresh 5 s: of 35 s spectral has 20 left beside two refreshes, or 25 and one."""
    study = make_study(shares=[1.0, 2.0])
    prices = Prices(step_s=1.0, start_s=5.0, refresh_s={"random": 0.0, "spectral": 5.0})
    trials = [t for t in seconds_trials(study, build_arms(study), NUM_PAIRS, prices) if not t.seed]
    lengths = {(t.arm, t.budget): (t.config.rounds, t.config.train.num_steps) for t in trials}
    assert lengths == {
        ("random", "seconds-1"): (3, 30),
        ("spectral", "seconds-1"): (2, 25),
        ("spectral", "seconds-2"): (5, 45),
    }
    for trial in trials:
        config = trial.config
        spent = prices.seconds(trial.arm, config.train.num_steps, config.rounds - 1)
        assert spent == pytest.approx(35 if trial.budget == "seconds-1" else 70)


def test_trials_share_everything_but_selection(make_study):
    study = make_study()
    trials = [t for t in steps_trials(study, build_arms(study), NUM_PAIRS) if t.seed == 0]
    own = {"selection", "rounds"}
    shared = [
        {k: v for k, v in trial.config.identity().items() if k not in own} for trial in trials
    ]
    assert shared[0] == shared[1]


def test_scores_are_those_that_are_measured(make_study):
    rows = np.eye(4, dtype=np.float32)
    assert set(get_args(Metric)) == set(retrieval_metrics(rows, rows))
    with pytest.raises(ConfigError, match="metric"):
        make_study(metric="u_to_v/mr")
