"""DeepSpeed, set up from our settings.

DeepSpeed's own configuration is generated here and nowhere else. The optimizer is torch's AdamW, handed over as an
object, and nothing is compiled at run time: a machine without a compiler can train.

`deepspeed` is imported inside functions: it looks for accelerators when imported, which a controller that only starts
the ranks must not do.
"""

import gc
import importlib
import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol, cast

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim.lr_scheduler import LambdaLR

from selection.errors import ConfigError
from trainer.config import OptimizerConfig, TrainConfig
from trainer.encoders import Batch
from trainer.model import ContrastiveModel

_COLLECTIVE_TIMEOUT = timedelta(minutes=30)
_BUCKET_ELEMENTS = 50_000_000  # DeepSpeed's 5e8 would set 2 GB aside for a model of any size
_NEVER = 1 << 62

# Their functions have the group that exists when they are imported as a default argument, which nothing ever frees.
_IMPORTED_BEFORE_JOINING = ("torch.distributed.nn.functional", "deepspeed")


class Engine(Protocol):
    """What we use of a `deepspeed.DeepSpeedEngine`."""

    module: ContrastiveModel
    device: torch.device

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]: ...  # noqa: D102

    def backward(self, loss: Tensor) -> Any: ...  # noqa: D102

    def step(self) -> None: ...  # noqa: D102

    def get_global_grad_norm(self) -> float | Tensor | None: ...  # noqa: D102

    def zero_optimization_stage(self) -> int: ...  # noqa: D102

    def save_checkpoint(  # noqa: D102
        self, save_dir: str, tag: str, client_state: dict[str, Any], save_latest: bool
    ) -> Any: ...

    def load_checkpoint(  # noqa: D102
        self, load_dir: str, tag: str
    ) -> tuple[str | None, dict[str, Any] | None]: ...

    def destroy(self) -> None: ...  # noqa: D102


@contextmanager
def process_group(use_gpu: bool) -> Iterator[None]:
    """Join the ranks, unless Ray Train or a test has done so; what was joined here is left at the end.

    Rank and address come from RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT; without them this is the one
    rank there is.
    """
    if not use_gpu:
        # Or DeepSpeed takes a GPU that other work is meant for.
        os.environ["DS_ACCELERATOR"] = "cpu"
    if dist.is_initialized():
        yield
        return
    if "RANK" not in os.environ:
        alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
        os.environ.update(alone, MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    for module in _IMPORTED_BEFORE_JOINING:
        importlib.import_module(module)
    dist.init_process_group("nccl" if use_gpu else "gloo", timeout=_COLLECTIVE_TIMEOUT)
    try:
        yield
    finally:
        _leave_process_group()


def rank_device(use_gpu: bool) -> torch.device:
    """The device of this rank, made torch's current one if it is a GPU."""
    if not use_gpu:
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    return device


@dataclass
class Horizon:
    """Steps of the whole run, over which the learning rate decays; better known with every schedule."""

    total_steps: int


def build_engine(model: ContrastiveModel, config: TrainConfig, horizon: Horizon) -> Engine:
    """Give the model to DeepSpeed, with optimizer and learning-rate schedule.

    Args:
        model: with its first weights; all ranks hold the same.
        config: of training.
        horizon: looked at after every step.

    Raises:
        ConfigError: the batch does not divide over the ranks.
    """
    import deepspeed

    _silence(deepspeed)
    optimizer = torch.optim.AdamW(
        parameter_groups(model, config.optimizer.weight_decay),
        lr=config.optimizer.lr,
        betas=config.optimizer.betas,
        eps=config.optimizer.eps,
        fused=True,
    )

    def ratio(step: int) -> float:
        return learning_rate_ratio(step, horizon.total_steps, config.optimizer)

    schedule: Any = lambda optimizer: LambdaLR(optimizer, ratio)  # noqa: E731  # no such type there
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        lr_scheduler=schedule,
        config=deepspeed_config(config, dist.get_world_size()),
        dist_init_required=False,
    )
    return cast(Engine, engine)


def deepspeed_config(config: TrainConfig, world_size: int) -> dict[str, Any]:
    """DeepSpeed's configuration for `world_size` ranks.

    Raises:
        ConfigError: the batch does not divide over the ranks.
    """
    size, rest = divmod(config.batch_size, world_size)
    if rest:
        raise ConfigError(
            f"train.batch_size is {config.batch_size}, but must be a multiple of the {world_size} ranks that were "
            f"started; change either"
        )
    return {
        "train_batch_size": config.batch_size,
        "train_micro_batch_size_per_gpu": size,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.optimizer.max_grad_norm,
        "bf16": {"enabled": config.precision == "bfloat16"},
        "zero_optimization": {
            "stage": config.zero_stage,
            "reduce_bucket_size": _BUCKET_ELEMENTS,
            "allgather_bucket_size": _BUCKET_ELEMENTS,
        },
        "steps_per_print": _NEVER,
    }


def learning_rate_ratio(step: int, total_steps: int, config: OptimizerConfig) -> float:
    """Learning rate at `step`, relative to `config.lr`: linear warm-up, then half a cosine.

    Args:
        step: counted from 0; the first step already has a rate above 0.
        total_steps: the last of these has `config.final_lr_ratio`.
        config: of the optimizer.
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    decay_steps = max(1, total_steps - 1 - config.warmup_steps)
    progress = min(1.0, (step - config.warmup_steps) / decay_steps)
    cosine = (1 + math.cos(math.pi * progress)) / 2
    return config.final_lr_ratio + (1 - config.final_lr_ratio) * cosine


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters that decay, matrices and embeddings, and those that do not: biases, norms and logit_scale."""
    decayed = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    others = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def take_step(engine: Engine, loss: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Backpropagate, average the gradients over the ranks, clip them and step.

    Returns:
        Norm of the gradient over all parameters and ranks, before clipping.
    """
    engine.backward(loss)
    # Without ZeRO, DeepSpeed clips but does not tell the norm.
    gradients = [p.grad for p in engine.module.parameters() if p.grad is not None]
    norm = get_total_norm(gradients) if engine.zero_optimization_stage() == 0 else None
    engine.step()
    return torch.as_tensor(engine.get_global_grad_norm() if norm is None else norm)


def _leave_process_group() -> None:
    from deepspeed import comm

    # A group ends its threads when nothing holds it any more, and gloo's threads, if they outlive the interpreter,
    # abort the process now and then (1 of 40 runs). DeepSpeed's function drops its own references as well; engines,
    # which have cycles, hold others.
    gc.collect()
    leave = comm.destroy_process_group if comm.is_initialized() else dist.destroy_process_group
    leave()


def _silence(deepspeed: Any) -> None:
    deepspeed.utils.logger.setLevel(logging.WARNING)
    # With CPU ranks DeepSpeed compiles a shared-memory operator for inference as soon as it starts, which takes half a
    # minute, a compiler and ninja, and hangs on the lock of a build that was killed. Training never calls it.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
