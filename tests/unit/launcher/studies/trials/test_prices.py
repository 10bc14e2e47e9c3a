import json

import pytest

from launcher.record import read_record
from launcher.studies.trials.arms import build_arms
from launcher.studies.trials.plan import steps_trials
from launcher.studies.trials.prices import Prices, RoundCost, keep_prices, price, round_costs
from tests.unit.launcher.studies.trials.conftest import NUM_PAIRS, STEPS_PER_EPOCH, write_run

PRICES = Prices(step_s=0.5, start_s=10.0, refresh_s={"random": 0.0, "spectral": 20.0})


@pytest.fixture
def record(make_study):
    study = make_study()
    trials = steps_trials(study, build_arms(study), NUM_PAIRS)
    (trial,) = (t for t in trials if t.arm == "spectral" and t.seed == 0)
    return read_record(write_run(trial.config, [0.1]))


def test_costs_are_read_from_what_a_run_wrote(record):
    costs = round_costs(record)
    assert [cost.num_steps for cost in costs] == [STEPS_PER_EPOCH] * 3
    assert [cost.selection_s for cost in costs] == pytest.approx([0, 2, 2])
    for cost in costs:
        assert cost.steps_s == pytest.approx(1.0)
        assert cost.train_s == pytest.approx(6.0)


def test_an_interrupted_round_counts_only_where_there_is_no_other(record):
    before = price({"spectral": round_costs(record)})
    record.stages.append({"stage": "train", "round": 0, "seconds": 3.0, "time": 1.0})
    record.stages.append({"stage": "train", "round": 1, "seconds": 30.0, "time": 1.0})
    costs = round_costs(record)
    first = costs[0]
    assert [cost.is_whole for cost in costs] == [False, False, True]
    after = price({"spectral": costs})
    assert after.refresh_s == before.refresh_s  # the third round's
    assert after.step_s == before.step_s
    assert (first.num_starts, first.train_s) == (2, pytest.approx(9.0))
    assert after.start_s == pytest.approx((9.0 - first.steps_s) / 2)


@pytest.mark.parametrize("restart_s", [0.0, 10.0])
def test_prices_are_medians_and_a_refresh_counts_what_its_round_takes_beside_steps(restart_s):
    first = RoundCost(True, 10, 5.0, 15.0, 0.0)
    later = RoundCost(False, 10, 5.0, 5.0 + restart_s, 7.0)
    unselected = RoundCost(False, 10, 5.0, 5.0 + restart_s, 0.0)
    disturbed = RoundCost(False, 10, 50.0, 100.0, 70.0, 2, False)
    found = price({"random": [first, unselected], "spectral": [first, later, later, disturbed]})
    assert found.step_s == pytest.approx(0.5)
    assert found.start_s == pytest.approx(10.0)
    assert found.refresh_s == pytest.approx({"random": 0.0, "spectral": 7.0 + restart_s})


def test_seconds_by_hand():
    assert PRICES.seconds("spectral", num_steps=40, num_refreshes=3) == 10 + 20 + 60
    assert PRICES.by_ends("spectral", [10, 20, 40]) == [15, 40, 70]
    assert PRICES.by_starts("spectral", [10, 20, 40]) == [10, 35, 60]
    assert PRICES.by_ends("random", [10, 20, 40]) == [15, 20, 30]
    assert PRICES.by_starts("random", [10, 20, 40]) == [10, 15, 20]


def test_kept_prices_stay_and_new_arms_join(tmp_path):
    path = tmp_path / "prices.json"
    assert keep_prices(path, "a", PRICES) == PRICES
    later = Prices(step_s=9.0, start_s=9.0, refresh_s={"spectral": 9.0, "osgd": 3.0})
    kept = keep_prices(path, "a", later)
    assert (kept.step_s, kept.start_s) == (0.5, 10.0)
    assert kept.refresh_s == {"random": 0.0, "spectral": 20.0, "osgd": 3.0}
    assert json.loads(path.read_text())["refresh_s"] == kept.refresh_s
    assert keep_prices(path, "of another configuration", later) == later
