"""Start the trainer's ranks with Ray Train, which restarts them when one is lost."""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ray.train
from ray.train.torch import TorchConfig, TorchTrainer

from selection.errors import JobError
from trainer.worker import TrainJob, train

_MAX_RESTARTS = 2


def run_ranks(job: TrainJob, storage: Path) -> None:
    """Run `trainer.worker.train` on every rank until its last round ends.

    Args:
        job: what the ranks do; they go on from the newest complete checkpoint by themselves.
        storage: where Ray Train keeps its own notes, on a file system that all nodes see.

    Raises:
        JobError: training failed for good; the message names the logs.
    """
    config = job.train
    trainer = TorchTrainer(
        _train_rank,
        train_loop_config={"job": job.model_dump_json()},
        torch_config=TorchConfig(backend="nccl" if config.use_gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=config.num_ranks,
            use_gpu=config.use_gpu,
            resources_per_worker={
                "CPU": config.cpus_per_rank,
                **({"GPU": 1} if config.use_gpu else {}),
            },
        ),
        run_config=ray.train.RunConfig(
            name=f"rounds-{job.first_round:05d}-{job.stop_round:05d}",
            storage_path=str(storage),
            failure_config=ray.train.FailureConfig(max_failures=_MAX_RESTARTS),
        ),
    )
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    try:
        _interruptibly(trainer.fit)
    except ray.train.TrainingFailedError as error:
        reason = str(error).strip().splitlines()[-1]
        raise JobError(f"training failed: {reason}; see {job.log_folder}") from error


def _interruptibly(function: Callable[[], Any]) -> None:
    """Call `function` in a thread, so that Ctrl-C stays ours.

    In the main thread Ray Train would put its own handler in place, for good, and end this process by itself.
    The ranks end when the launcher disconnects from Ray.
    """
    executor = ThreadPoolExecutor(max_workers=1)
    try:
        executor.submit(function).result()
    finally:
        executor.shutdown(wait=False)


def _train_rank(settings: dict[str, str]) -> None:
    """One rank; Ray Train has set RANK, WORLD_SIZE and the process group."""
    train(TrainJob.model_validate_json(settings["job"]))
