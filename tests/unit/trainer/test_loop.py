"""The loop with a stub for DeepSpeed; `tests/distributed` runs it with real ranks."""

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch.nn import functional as F

from selection.errors import JobError
from trainer import loop
from trainer.checkpoint import Position
from trainer.config import TrainConfig
from trainer.engine import process_group
from trainer.loop import RoundPlan, seed_step, train_round


class StubEngine:
    """Embeds every batch alike; remembers what it was asked to do."""

    device = torch.device("cpu")

    def __init__(self, fail_at=None, norms=()):
        self.module = torch.nn.Linear(3, 3)
        self.num_steps = 0
        self.fail_at = fail_at
        self.norms = norms

    def __call__(self, batch):
        x = F.normalize(self.module(batch["u"]), dim=1)
        scale = torch.tensor(float("nan") if self.num_steps == self.fail_at else 2.0)
        return x, x, scale

    def backward(self, loss):
        loss.backward()

    def step(self):
        self.num_steps += 1

    def zero_optimization_stage(self):
        return 1

    def get_global_grad_norm(self):
        return self.norms[self.num_steps - 1] if self.norms else 0.5


class ListLog:
    def __init__(self):
        self.lines = []

    def write(self, step, metrics):
        self.lines.append({"step": step, **metrics})


@pytest.fixture(autouse=True)
def one_rank(monkeypatch):
    for name in (
        "RANK",
        "LOCAL_RANK",
        "WORLD_SIZE",
        "MASTER_ADDR",
        "MASTER_PORT",
        "DS_ACCELERATOR",
    ):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    with process_group(use_gpu=False):
        yield


@pytest.fixture
def plan():
    config = TrainConfig(batch_size=4, num_ranks=1, log_every_steps=3, checkpoint_every_steps=4)
    return RoundPlan(config, seed=0, steps_per_epoch=5, num_epochs=2, total_steps=40, num_steps=10)


def run(plan, position, engine=None):
    log, saved = ListLog(), []
    batches = [{"u": torch.eye(4, 3)}] * (plan.num_steps - position.step_in_round)
    end = train_round(engine or StubEngine(), batches, position, plan, log, saved.append)
    return end, log.lines, saved


def test_a_round_logs_and_saves_at_its_steps(plan):
    end, lines, saved = run(plan, Position(round=1, step=10))
    assert [line["step"] for line in lines] == [12, 14, 15, 18, 20]
    assert saved == [Position(1, 4, 14), Position(1, 8, 18), Position(2, 0, 20)]
    assert end == Position(2, 0, 20)
    assert [line["epoch"] for line in lines] == pytest.approx([2.4, 2.8, 3.0, 3.6, 4.0])
    assert lines[0]["train/temperature"] == 0.5
    assert lines[0]["train/grad_norm"] == 0.5
    assert lines[0]["total_steps"] == 40


def test_a_round_goes_on_inside(plan):
    _, whole, _ = run(plan, Position(round=1, step=10))
    end, lines, saved = run(plan, Position(round=1, step_in_round=4, step=14))
    assert [line["step"] for line in lines] == [line["step"] for line in whole][2:]
    assert saved == [Position(1, 8, 18), Position(2, 0, 20)]
    assert end == Position(2, 0, 20)


def test_there_is_a_checkpoint_to_select_from(plan):
    _, _, saved = run(replace(plan, selection_step=5), Position(round=1, step=10))
    assert [position.step for position in saved] == [14, 15, 18, 20]


def test_a_loss_that_is_not_a_number_ends_the_run_before_it_is_saved(plan):
    saved = []
    with pytest.raises(JobError, match="train/loss is nan in step 4,"):
        batches = [{"u": torch.eye(4, 3)}] * plan.num_steps
        train_round(StubEngine(fail_at=3), batches, Position(), plan, None, saved.append)
    assert saved == []


@pytest.mark.parametrize("step", [1, 2, 3])
@pytest.mark.parametrize("norm", [float("nan"), float("inf")])
def test_so_does_a_gradient_that_is_not_a_number_while_the_loss_still_is_one(plan, norm, step):
    """At any step: DeepSpeed leaves it out, and all that follow are finite."""
    norms = [norm if number == step else 0.5 for number in range(1, plan.num_steps + 1)]
    saved, batches = [], [{"u": torch.eye(4, 3)}] * plan.num_steps
    with pytest.raises(JobError, match=f"train/grad_norm is {norm} in steps 1 to 3,"):
        train_round(StubEngine(norms=norms), batches, Position(), plan, None, saved.append)
    assert saved == []


def test_the_logged_learning_rate_is_that_of_the_step(plan):
    _, lines, _ = run(plan, Position())
    lr, warmup_steps = plan.config.optimizer.lr, plan.config.optimizer.warmup_steps
    assert [line["train/lr"] for line in lines] == pytest.approx(
        [lr * line["step"] / warmup_steps for line in lines]
    )


def test_each_step_has_random_numbers_of_its_own():
    def numbers(seed, step, rank):
        seed_step(seed, step, rank)
        return tuple(torch.rand(3).tolist())

    assert numbers(1, 2, 3) == numbers(1, 2, 3)
    assert len({numbers(*key) for key in ((1, 2, 3), (0, 2, 3), (1, 0, 3), (1, 2, 0))}) == 4


def test_every_step_is_seeded_with_its_place_in_the_run(plan, monkeypatch):
    seeds = []
    monkeypatch.setattr(loop, "seed_step", lambda *key: seeds.append(key))
    run(plan, Position(round=1, step_in_round=7, step=17))
    assert seeds == [(0, step, dist.get_rank()) for step in (17, 18, 19)]
