"""Go on with another number of ranks: at ZeRO stages 1 to 3 each rank has saved its own part of the optimizer.

DeepSpeed's universal format has a file per parameter instead, from which any number of ranks takes what it needs.
Rank 0 converts the checkpoint into it when that is needed, and deletes it when all have loaded.

Disk: three float32 copies of the weights, written twice and read once. Memory: rank 0 holds what one rank has saved.
"""

import logging
import shutil
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed as dist

from trainer.engine import Engine

logger = logging.getLogger(__name__)

_FOLDER = "universal"


def load_resharded(engine: Engine, folder: Path) -> dict[str, Any] | None:
    """Put the engine where another number of ranks saved a checkpoint; every rank calls this.

    Args:
        engine: of this rank.
        folder: of the checkpoint, inside that of all checkpoints of the run.

    Returns:
        What was saved with it; None if there is nothing.
    """
    with _converted(folder) as universal, _reading_universal(engine), _mending(engine):
        _, fields = engine.load_checkpoint(str(universal.parent), tag=universal.name)
    return fields


@contextmanager
def _converted(folder: Path) -> Iterator[Path]:
    target = folder.parent / _FOLDER / folder.name
    is_writer = dist.get_rank() == 0
    if is_writer:
        shutil.rmtree(target.parent, ignore_errors=True)  # of an attempt that was killed
        logger.info("converting %s for %d ranks", folder, dist.get_world_size())
        _convert(folder, target)
    dist.barrier()
    yield target
    dist.barrier()
    if is_writer:
        shutil.rmtree(target.parent)


def _convert(source: Path, target: Path) -> None:
    from deepspeed.checkpoint import ds_to_universal

    target.mkdir(parents=True)
    ds_to_universal.main(
        Namespace(
            input_folder=str(source),
            output_folder=str(target),
            # In this process: forked ones would inherit the threads of gloo and CUDA in an unusable state.
            num_extract_workers=1,
            num_merge_workers=1,
            keep_temp_folder=False,
            strict=True,
            inject_missing_state=True,
        )
    )


@contextmanager
def _reading_universal(engine: Any) -> Iterator[None]:
    """Only for this load: the next checkpoint is an ordinary one again."""
    engine._config.load_universal_checkpoint = True
    try:
        yield
    finally:
        engine._config.load_universal_checkpoint = False


@contextmanager
def _mending(engine: Any) -> Iterator[None]:
    """At stage 3 DeepSpeed gives every group the weight decay of the first, and all states the same tensor as their
    step, which AdamW would then count up once for each of them.
    """
    optimizer = engine.optimizer.optimizer
    decays = [group["weight_decay"] for group in optimizer.param_groups]
    yield
    for group, decay in zip(optimizer.param_groups, decays, strict=True):
        group["weight_decay"] = decay
    for state in optimizer.state.values():
        state["step"] = state["step"].clone()
