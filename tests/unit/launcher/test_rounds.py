import numpy as np
import pytest

from launcher.config import RunConfig
from launcher.rounds import _check_num_steps
from launcher.run_dir import RunDir
from launcher.run_state import Run
from selection.errors import ArtifactError, ConfigError
from selection.schedule import schedule_folder, write_schedule
from trainer.claim import Claim

NUM_PAIRS, BATCH_SIZE, EPOCHS = 103, 10, 3


@pytest.fixture
def make_run(tmp_path):
    def make(strategy="spectral", rounds=4, num_steps=None, **selection):
        config = RunConfig.model_validate(
            {
                "run_dir": tmp_path,
                "rounds": rounds,
                "data": {"train": "t", "heldout": "h"},
                "train": {"batch_size": BATCH_SIZE, "num_steps": num_steps},
                "selection": {
                    "strategy": strategy,
                    "refresh": {"epochs_per_round": EPOCHS},
                    **selection,
                },
            }
        )
        claim = Claim(file=tmp_path / ".owner.json", token="of the test")
        run = Run(config, RunDir(tmp_path), tmp_path / "logs", claim)
        run.indexes["train"] = range(NUM_PAIRS)  # only its length is asked for
        return run

    return make


def schedule(run, round_number, num_batches):
    ids = np.arange(NUM_PAIRS)
    size = num_batches * BATCH_SIZE
    fields = {"seed": 0, "round": round_number, "strategy": "x", "config_hash": run.config.hash}
    folder = schedule_folder(run.dir.schedules, round_number)
    write_schedule(folder, ids[:size].reshape(-1, BATCH_SIZE), ids[size:], fields)


def test_steps_are_counted_from_the_schedules(make_run):
    run = make_run()
    for number, num_batches in enumerate((10, 7, 8)):
        schedule(run, number, num_batches)
    assert [run.steps_before(number) for number in range(4)] == [0, 30, 51, 75]
    assert run.num_schedules() == 3


def test_steps_to_come_are_expected_to_be_like_the_last_round(make_run):
    run = make_run()
    assert run.total_steps(0) == 4 * 10 * EPOCHS
    for number, num_batches in enumerate((10, 7, 8, 9)):
        schedule(run, number, num_batches)
    totals = [run.total_steps(num_known) for num_known in range(5)]
    assert totals == [
        total * EPOCHS for total in (10 * 4, 10 * 4, 10 + 7 * 3, 10 + 7 + 8 * 2, 10 + 7 + 8 + 9)
    ]


@pytest.mark.parametrize(
    ("strategy", "selection", "num_batches"),
    [("osgd", {"osgd": {"num_candidates": 10, "num_kept": 2}}, 2), ("random", {}, 10)],
)
def test_before_there_is_a_schedule_the_strategy_says_how_many(
    make_run, strategy, selection, num_batches
):
    """But the first round is random for all of them."""
    run = make_run(strategy, **selection)
    assert run.total_steps(0) == (10 + 3 * num_batches) * EPOCHS
    schedule(run, 0, 10)
    assert run.total_steps(1) == run.total_steps(0)


def test_one_round_is_random_and_asks_no_strategy(make_run):
    assert make_run("full", rounds=1).total_steps(0) == 10 * EPOCHS


def test_a_given_number_of_steps_is_that_of_the_run(make_run):
    run = make_run(num_steps=95)
    schedule(run, 0, 10)
    assert [run.total_steps(num_known) for num_known in range(2)] == [95, 95]
    assert run.length.steps_by_round([10]) == [10 * EPOCHS] * 4
    _check_num_steps(run)


@pytest.mark.parametrize("num_steps", [1, 89, 90])
def test_steps_that_leave_none_for_the_last_round_are_refused(make_run, num_steps):
    with pytest.raises(ConfigError, match=r"train\.num_steps: is \d+, but the 3 rounds .* have 90"):
        _check_num_steps(make_run(num_steps=num_steps))


def test_a_schedule_of_another_configuration_is_refused(make_run):
    schedule(make_run(), 0, 10)
    with pytest.raises(ArtifactError, match="config_hash"):
        make_run("random").steps_before(1)
