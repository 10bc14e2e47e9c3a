"""What the ranks of the tests in this folder do; each function runs on every rank of a group."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from selection.errors import ArtifactError, JobError
from trainer import loop, session, stopping, worker
from trainer.checkpoint import latest_checkpoint
from trainer.engine import process_group
from trainer.losses import info_nce
from trainer.model import ContrastiveModel
from trainer.worker import TrainJob, schedule_folder, train

BATCH_SIZE = 12


class LinearEncoder(nn.Module):
    """The smallest encoder with weights."""

    def __init__(self) -> None:
        super().__init__()
        self.u = nn.Linear(7, 5)
        self.v = nn.Linear(7, 5)

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return F.normalize(self.u(batch["u"]), dim=1), F.normalize(self.v(batch["v"]), dim=1)


def contrastive_gradients(
    dtype: torch.dtype, temperature: float, rank: int = 0, world_size: int = 1
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients of this rank's rows of a batch that depends on the seed alone."""
    torch.manual_seed(0)
    model = ContrastiveModel(LinearEncoder(), temperature, min_temperature=0.05).to(dtype)
    rows = slice(rank * BATCH_SIZE // world_size, (rank + 1) * BATCH_SIZE // world_size)
    x = torch.randn(BATCH_SIZE, 7, dtype=torch.float64)
    y = x + torch.randn(BATCH_SIZE, 7, dtype=torch.float64)
    loss = info_nce(*model({"u": x[rows].to(dtype), "v": y[rows].to(dtype)}))
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters()}


def mean_contrastive_gradients(cases: list[tuple[str, float]]) -> list[Any]:
    """For every (dtype, temperature): mean over ranks of loss and gradients, and the own gradient of the scale."""
    results = []
    with process_group(use_gpu=False):
        rank, world_size = dist.get_rank(), dist.get_world_size()
        for dtype, temperature in cases:
            loss, gradients = contrastive_gradients(
                getattr(torch, dtype), temperature, rank, world_size
            )
            own = gradients["logit_scale"].clone()
            for tensor in (loss, *gradients.values()):
                dist.all_reduce(tensor)
                tensor /= world_size
            results.append((loss, gradients, own))
    return results


def train_jobs(jobs: list[str], crash_at_steps: list[list[int]]) -> list[list[str]]:
    """Train each job, beginning anew after each crash, as a restarted group would.

    Args:
        jobs: JSON of each.
        crash_at_steps: for each job, the steps of the run at which its next attempt crashes.

    Returns:
        For each job the messages of its crashes.
    """
    messages = []
    with process_group(use_gpu=False):
        for text, crashes in zip(jobs, crash_at_steps, strict=True):
            job = TrainJob.model_validate_json(text)
            with _counting_steps(job.train.precision == "bfloat16"):
                messages.append([_crash(job, step) for step in crashes])
                train(job)
    return messages


@contextmanager
def _counting_steps(wanted: bool) -> Iterator[None]:
    """Models that count their steps in a buffer, as batch norm keeps its statistics in some."""
    build_model = session.build_model

    def count(module: nn.Module, *_: Any) -> None:
        module.num_steps += module.training

    def build(*args: Any) -> nn.Module:
        model = build_model(*args)
        model.register_buffer("num_steps", torch.zeros(()))
        model.register_forward_hook(count)
        return model

    session.build_model = build if wanted else build_model
    yield
    session.build_model = build_model


def train_one(job: str) -> list[str]:
    """Train a job as the worker's main does; returns the threads of gloo that are left when the group is."""
    train(TrainJob.model_validate_json(job))
    tasks = Path("/proc/self/task").iterdir()
    return [name for task in tasks if "gloo" in (name := (task / "comm").read_text())]


def _crash(job: TrainJob, step: int) -> str:
    seed_step = loop.seed_step

    def crash(seed: int, at: int, rank: int) -> None:
        if at == step:
            raise RuntimeError(f"crash before step {step + 1}")
        seed_step(seed, at, rank)

    loop.seed_step = crash
    try:
        train(job)
    except JobError as error:
        return str(error)
    finally:
        loop.seed_step = seed_step
    raise AssertionError(f"step {step} was never reached")


def train_or_refuse(jobs: list[str]) -> list[str]:
    """Train each job; returns the message of the error that it met, or an empty one."""
    messages = []
    with process_group(use_gpu=False):
        for text in jobs:
            try:
                train(TrainJob.model_validate_json(text))
            except ArtifactError as error:
                messages.append(str(error))
            else:
                messages.append("")
    return messages


def train_stopped(jobs: list[str], at_steps: list[list[int]]) -> list[list[int]]:
    """Train each job, which one rank is asked to stop before its steps, and begin it anew each time.

    Returns:
        For each job the steps at which it stopped.
    """
    stopping._LOOK_EVERY_S = 0
    with process_group(use_gpu=False):
        return [
            _stop(TrainJob.model_validate_json(text), steps)
            for text, steps in zip(jobs, at_steps, strict=True)
        ]


def _stop(job: TrainJob, at_steps: list[int]) -> list[int]:
    seed_step, stopped = loop.seed_step, []
    for step in at_steps:
        loop.seed_step = _asking(job, step, seed_step)
        train(job)
        stopped.append(latest_checkpoint(job.checkpoints_folder, job.config_hash).position.step)
        dist.barrier()
        job.stop_file.unlink(missing_ok=True)
        dist.barrier()
    loop.seed_step = seed_step
    train(job)
    return stopped


def train_while_one_sees_no_schedule(job: str) -> list[int]:
    """Train a job of which one rank sees a request to stop, and no schedule of the second round, when others see it.

    Returns:
        Round and step of the newest checkpoint.
    """
    found, wait = TrainJob.model_validate_json(job), worker.wait_for_schedule
    late = schedule_folder(found.schedules_folder, 1)

    def wait_here(folder: Path, stop: Path) -> bool:
        return wait(folder, stop) and not (folder == late and dist.get_rank() == 1)

    worker.wait_for_schedule = wait_here
    with process_group(use_gpu=False):
        train(found)
    worker.wait_for_schedule = wait
    newest = latest_checkpoint(found.checkpoints_folder, found.config_hash)
    return [newest.position.round, newest.position.step_in_round]


def _asking(job: TrainJob, step: int, seed_step):
    def ask(seed: int, at: int, rank: int) -> None:
        if (at, rank) == (step, 1):
            job.stop_file.touch()
        seed_step(seed, at, rank)

    return ask
