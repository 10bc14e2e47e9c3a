import json
import os
import signal

import numpy as np
import pytest

from launcher import rounds, run_state
from launcher.config import RunConfig
from launcher.expected_length import check_length
from launcher.run_dir import RunDir, read_lines
from launcher.run_state import Run
from launcher.stopping import Stopped, stoppable, stopping_ranks
from selection.artifacts import write_json, write_manifest
from selection.errors import ArtifactError, ConfigError, JobError
from selection.schedule import schedule_folder, write_schedule
from trainer.checkpoint import Checkpoint, checkpoint_folder
from trainer.claim import Claim

NUM_PAIRS, BATCH_SIZE, EPOCHS, EVERY = 103, 10, 3, 12
COLLECTED = {"embeddings": "collected"}


@pytest.fixture(autouse=True)
def _signals_as_before():
    """A run that is on its way out minds none for good, and processes inherit that."""
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def make_run(tmp_path):
    def make(
        strategy="spectral", rounds=4, num_steps=None, mode="alternate", refresh=None, **selection
    ):
        config = RunConfig.model_validate(
            {
                "run_dir": tmp_path,
                "rounds": rounds,
                "data": {"train": "t", "heldout": "h"},
                "train": {
                    "batch_size": BATCH_SIZE,
                    "num_steps": num_steps,
                    "checkpoint_every_steps": EVERY,
                },
                "selection": {
                    "strategy": strategy,
                    "refresh": {"epochs_per_round": EPOCHS, "mode": mode, **(refresh or {})},
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
    check_length(run.config, NUM_PAIRS)


@pytest.mark.parametrize("num_steps", [1, 89, 90])
def test_steps_that_leave_none_for_the_last_round_are_refused(make_run, num_steps):
    with pytest.raises(ConfigError, match=r"train\.num_steps: is \d+, but the 3 rounds .* have 90"):
        check_length(make_run(num_steps=num_steps).config, NUM_PAIRS)


def test_a_schedule_of_another_configuration_is_refused(make_run):
    schedule(make_run(), 0, 10)
    with pytest.raises(ArtifactError, match="config_hash"):
        make_run("random").steps_before(1)


def save(run, round_number, step_in_round, step):
    fields = {"round": round_number, "step_in_round": step_in_round, "step": step}
    folder = checkpoint_folder(run.dir.checkpoints, step)
    write_manifest(folder, "checkpoint", [], {**fields, "config_hash": run.config.hash})


@pytest.mark.parametrize(("every", "is_refused"), [(29, False), (30, True), (31, True)])
def test_a_round_without_a_checkpoint_inside_cannot_be_overlapped(make_run, every, is_refused):
    def check(config):
        train = config.train.model_copy(update={"checkpoint_every_steps": every})
        check_length(config.model_copy(update={"train": train}), NUM_PAIRS)

    for harmless in (
        make_run(),
        make_run("random", mode="overlap"),
        make_run(mode="overlap", rounds=1),
        make_run(mode="overlap", refresh=COLLECTED),
    ):
        check(harmless.config)
    if not is_refused:
        check(make_run(mode="overlap").config)
        return
    with pytest.raises(
        ConfigError,
        match=rf"checkpoint_every_steps: is {every}, but .* less than the 30 steps .*; lower it",
    ):
        check(make_run(mode="overlap").config)


def test_ages_of_embeddings_that_were_selected_from_ahead(make_run):
    for refresh, embedding_step in ((None, 30 + EVERY), (COLLECTED, 30 + 7 - 7 // 2)):
        run = make_run(mode="overlap", refresh=refresh)
        for number, num_batches in enumerate((10, 7)):
            schedule(run, number, num_batches)
        save(run, 1, run.selection_step(1), 30 + run.selection_step(1))
        checkpoint = run.checkpoint_in(1, run.selection_step(1))
        ages = run.ages(2, checkpoint)
        assert ages == {
            "embedding_step": embedding_step,
            "staleness_steps": (10 + 7) * EPOCHS - embedding_step,
        }


def test_a_checkpoint_that_is_pruned_while_one_looks_has_a_successor(make_run, monkeypatch):
    run = make_run()
    listed = iter([[checkpoint_folder(run.dir.checkpoints, 5)]])
    save(run, 2, 0, 9)
    monkeypatch.setattr(
        run_state,
        "complete_checkpoints",
        lambda folder: next(listed, [checkpoint_folder(folder, 9)]),
    )
    assert run.has_trained(1)
    assert not run.has_trained(2)


def test_the_last_checkpoint_of_a_round_that_others_have_followed(make_run):
    run = make_run(mode="overlap", rounds=2, num_steps=55)
    for number in range(2):
        schedule(run, number, 10)
    for position in ((1, 0, 30), (1, 12, 42), (2, 0, 55)):
        save(run, *position)
    assert [run.last_checkpoint_of(number).position.step for number in range(2)] == [30, 55]
    assert run.checkpoint_in(1, 12).position.step == 42
    assert run.checkpoint_in(1, 13) is None


class FakeRanks:
    """Ranks that do what a test says while somebody waits for them."""

    are_done = False

    def __init__(self, do=lambda: None):
        self.do, self.num_looks, self.was_waited_for = do, 0, False

    def wait_until(self, condition):
        while not condition():
            self.do()

    def look(self):
        self.num_looks += 1

    def wait_for_end(self):
        self.was_waited_for = True


def test_what_is_waited_for_inside_a_round(make_run):
    run = make_run(mode="overlap")
    schedule(run, 0, 10)
    run.ranks = FakeRanks(lambda: save(run, 0, EVERY, EVERY))
    assert rounds._wait_for_checkpoint_inside(run, 0).position.step == EVERY
    run.ranks = None  # as when the round was trained before
    assert rounds._wait_for_checkpoint_inside(run, 0).position.step == EVERY

    schedule(run, 1, 4)
    assert rounds._wait_for_checkpoint_inside(run, 1) is None  # it has 12 steps
    schedule(run, 1, 5)
    run.ranks = FakeRanks(lambda: save(run, 2, 0, 45))  # it ends, and somebody took the one inside
    assert rounds._wait_for_checkpoint_inside(run, 1) is None


@pytest.mark.parametrize("mode", ["alternate", "overlap"])
def test_the_order_of_steps(make_run, monkeypatch, mode):
    done = []

    def step(name):
        return lambda _run, number: done.append(f"{name} {number}")

    def train(_run, number, beside=lambda: None):
        done.append(f"train {number}")
        beside()
        done.append(f"end {number}")

    for name in ("select", "select_ahead", "judge"):
        monkeypatch.setattr(rounds, name, step(name))
    monkeypatch.setattr(rounds, "train", train)
    run = make_run(mode=mode, rounds=2)
    run.claim.file.write_text('{"token": "of the test"}')
    rounds.run_rounds(run)
    assert done == {
        "alternate": [
            "select 0", "train 0", "end 0", "judge 0", "select 1", "train 1", "end 1", "judge 1",
        ],
        "overlap": [
            "select 0", "train 0", "select_ahead 1", "end 0",
            "select 1", "train 1", "judge 0", "end 1", "judge 1",
        ],
    }[mode]  # fmt: skip


@pytest.mark.parametrize("error", [JobError("it failed"), ValueError("it broke"), Stopped()])
def test_whatever_goes_wrong_the_ranks_are_asked_to_stop(make_run, monkeypatch, error):
    def fail(*_args):
        raise error

    monkeypatch.setattr(rounds, "select", fail)
    run = make_run(mode="overlap")
    run.logs.mkdir()
    run.ranks = FakeRanks()
    with pytest.raises(type(error)) as caught:
        rounds.run_rounds(run)
    assert caught.value is error
    assert run.stop_file.exists()
    assert run.ranks.was_waited_for


def test_who_waits_looks_at_the_ranks_and_for_a_request_to_stop(make_run):
    run = make_run(mode="overlap")
    run.look_around()
    run.ranks = FakeRanks()
    run.look_around()
    assert run.ranks.num_looks == 1
    run.logs.mkdir()
    run.stop_file.touch()
    with pytest.raises(Stopped):
        run.look_around()


def test_corrupted_images_are_judged_in_pools_of_one_image(make_run, monkeypatch):
    run = make_run(rounds=1)
    rows = np.eye(4, dtype=np.float32)
    swapped = rows[[1, 0, 2, 3]]  # of the first image, each corruption finds the other one
    views = {"heldout": (rows, rows), "corrupted": (rows, swapped)}
    run.indexes |= {"heldout": range(4), "corrupted": Corrupted()}
    write_json(run.dir.owner, {"token": "of the test"})
    position = {"round": 1, "step_in_round": 0, "step": 10}
    checkpoint = Checkpoint(checkpoint_folder(run.dir.checkpoints, 10), position)
    monkeypatch.setattr(rounds, "embedded", lambda run, splits, *_: {s: views[s] for s in splits})
    monkeypatch.setattr(Run, "last_checkpoint_of", lambda run, number: checkpoint)
    rounds.judge(run, 0)
    (found,) = read_lines(run.dir.results)
    assert found["u_to_v/mrr"] == 1
    assert found["corrupted/u_to_v/recall_at_1"] == 0.5
    assert found["corrupted/chance"] == 0.5
    assert "corrupted/u_to_v/mrr" not in found


class Corrupted:
    """Two images in two corruptions each."""

    def __len__(self):
        return 4

    def read(self, ids):
        return [{"json": json.dumps({"image": int(i) // 2}).encode()} for i in ids]


def test_a_stop_while_selecting_ahead_is_not_cut_off(make_run):
    """SLURM's script signals again and again, also on the way out."""
    run = make_run(mode="overlap", refresh=COLLECTED)
    run.logs.mkdir(parents=True, exist_ok=True)
    with pytest.raises(Stopped), stoppable():
        with stopping_ranks(run.stop_file):
            os.kill(os.getpid(), signal.SIGUSR1)
            try:
                run.look_around()
            finally:
                os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGUSR1)
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
