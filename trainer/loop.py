"""One round of training: every batch of a schedule, in order, from wherever the run is to the round's end."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from trainer.checkpoint import Position
from trainer.config import TrainConfig
from trainer.data import Stopwatch
from trainer.encoders import Batch, to_device
from trainer.engine import Engine, learning_rate_ratio, take_step
from trainer.losses import info_nce
from trainer.metrics import MetricsLog, Window, check_finite, peak_memory_gib


@dataclass(frozen=True)
class RoundPlan:
    """What is the same at every step of a round.

    Attributes:
        config: of training.
        seed: of the run.
        steps_per_epoch: batches of the schedule.
        num_epochs: times that a round goes through them.
        total_steps: of the whole run, for the log.
        num_steps: of the round; the last one of a run may be shorter or longer than `num_epochs`.
        selection_step: of the round, with whose checkpoint the next schedule is selected; None: at its end.
    """

    config: TrainConfig
    seed: int
    steps_per_epoch: int
    num_epochs: int
    total_steps: int
    num_steps: int
    selection_step: int | None = None

    def saves_at(self, position: Position) -> bool:
        """Whether there is a checkpoint at `position`, which is reached after a step of the round."""
        step = position.step_in_round
        is_asked_for = step in (self.num_steps, self.selection_step)
        return is_asked_for or step % self.config.checkpoint_every_steps == 0

    def logs_at(self, position: Position) -> bool:
        """Whether there is a log line at `position`; always before a checkpoint, see `trainer/metrics.py`."""
        return position.step % self.config.log_every_steps == 0 or self.saves_at(position)


def train_round(
    engine: Engine,
    batches: Iterable[Batch],
    position: Position,
    plan: RoundPlan,
    log: MetricsLog | None,
    save: Callable[[Position], None],
    stops: Callable[[], bool] = lambda: False,
    note: Callable[[Tensor, Tensor], None] | None = None,
) -> Position:
    """Train from `position` to the end of its round, or to where the ranks agree to stop.

    Args:
        engine: model and optimizer.
        batches: this rank's slices, from `position` on.
        position: of the first batch.
        plan: of the round.
        log: where metrics go; only rank 0 has one.
        save: makes a checkpoint; called on every rank at the same steps.
        stops: asked after every step; the same answer on every rank.
        note: given the embeddings u and v of every step; None where nobody asks for them.

    Returns:
        The start of the next round, or where the ranks stopped.

    Raises:
        JobError: the loss or the gradient is not finite.
    """
    stopwatch, window = Stopwatch(), Window.open(engine.device)
    for batch in stopwatch.time(batches):
        seed_step(plan.seed, position.step, dist.get_rank())
        step = train_step(engine, batch)
        window.add(step.loss, step.norm)
        if note is not None:
            note(step.u, step.v)
        position = position.next()
        stop = stops()
        if stop or plan.logs_at(position):
            learned = {
                "train/temperature": 1 / float(step.scale),
                "train/grad_norm": float(step.norm),
            }
            metrics = _summary(engine, window, stopwatch.waited_s, position, plan)
            if log is not None:
                log.write(position.step, {**metrics, **learned})
            stopwatch.waited_s, window = 0.0, Window.open(engine.device)
        if stop or plan.saves_at(position):
            is_end = position.step_in_round == plan.num_steps
            position = position.next_round() if is_end else position
            save(position)
            # Anew, so that the seconds of a checkpoint do not count as the next steps'.
            window = Window.open(engine.device)
        if stop:
            break
    return position


class Step(NamedTuple):
    """What a step gave."""

    loss: Float[Tensor, ""]
    """Of this rank's rows."""

    scale: Float[Tensor, ""]
    """Of the similarities."""

    norm: Float[Tensor, ""]
    """Of the gradient over all ranks."""

    u: Float[Tensor, "b d"]
    """Embeddings of this rank's slice, as the weights before the step have them."""

    v: Float[Tensor, "b d"]


def train_step(engine: Engine, batch: Batch) -> Step:
    """Take one step."""
    u, v, scale = engine(to_device(batch, engine.device))
    loss = info_nce(u, v, scale)
    norm = take_step(engine, loss)
    return Step(loss.detach(), scale.detach(), norm, u.detach(), v.detach())


def seed_step(seed: int, step: int, rank: int) -> None:
    """Make dropout at `step` a function of (seed, step, rank), so that a resumed run repeats it exactly."""
    (state,) = np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)
    torch.manual_seed(int(state))


def _summary(
    engine: Engine, window: Window, waited_s: float, position: Position, plan: RoundPlan
) -> dict[str, float]:
    """Metrics of the steps of `window`; its loss is the mean over ranks and steps. All ranks take part."""
    loss = window.loss_sum / window.num_steps
    dist.all_reduce(loss)
    mean_loss = float(loss) / dist.get_world_size()
    check_finite(mean_loss, "train/loss", position.step, window.num_steps)
    # DeepSpeed leaves such a step out without a word, and the next loss is finite again
    check_finite(float(window.norm_sum), "train/grad_norm", position.step, window.num_steps)
    epoch = position.round * plan.num_epochs + position.step_in_round / plan.steps_per_epoch
    optimizer = plan.config.optimizer
    samples_per_s = window.num_steps * plan.config.batch_size / window.elapsed_s()
    return {
        "round": position.round,
        "epoch": round(epoch, 6),
        "total_steps": plan.total_steps,
        "train/loss": mean_loss,
        "train/lr": optimizer.lr
        * learning_rate_ratio(position.step - 1, plan.total_steps, optimizer),
        "perf/samples_per_s": samples_per_s,
        "perf/data_wait_s": waited_s / window.num_steps,
        "mem/peak_gib": peak_memory_gib(engine.device),
    }
