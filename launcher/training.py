"""Start the trainer's ranks with Ray Train, which restarts them when one is lost."""

from pathlib import Path

import ray.train
from ray.train.torch import TorchConfig, TorchTrainer

from selection.errors import JobError
from selection.ray_tasks import run_remote
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
    run_remote(_fit, job.model_dump_json(), storage, num_cpus=0)


def _fit(job_text: str, storage: Path) -> None:
    """In a Ray worker: Ray Train puts signal handlers in place and would end the launcher by itself on Ctrl-C."""
    job = TrainJob.model_validate_json(job_text)
    config = job.train
    trainer = TorchTrainer(
        _train_rank,
        train_loop_config={"job": job_text},
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
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        reason = str(error).strip().splitlines()[-1]
        raise JobError(f"training failed: {reason}; see {job.log_folder}") from error


def _train_rank(settings: dict[str, str]) -> None:
    """One rank; Ray Train has set RANK, WORLD_SIZE and the process group."""
    train(TrainJob.model_validate_json(settings["job"]))
