"""Start the trainer's ranks with Ray Train, which restarts them when one is lost."""

from collections.abc import Callable
from pathlib import Path

import ray
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer

from selection.errors import JobError
from selection.ray_tasks import result_of, start_remote
from trainer.worker import TrainJob, train

_MAX_RESTARTS = 2
_POLL_S = 0.2


class Ranks:
    """The ranks of a job, started here; between two rounds they wait for the schedule of the next one.

    Args:
        job: what the ranks do; they go on from the newest complete checkpoint by themselves.
        storage: where Ray Train keeps its own notes, on a file system that all nodes see.
    """

    def __init__(self, job: TrainJob, storage: Path) -> None:
        self._job = job
        self._future = start_remote(_fit, job.model_dump_json(), storage, num_cpus=0)
        self.are_done = False

    def wait(self, round_number: int, is_trained: Callable[[], bool]) -> None:
        """Wait until the ranks have trained a round, or have ended.

        Args:
            round_number: which; after the last one of the job, the ranks end.
            is_trained: whether its last checkpoint is complete.

        Raises:
            JobError: training failed for good; the message names the logs.
        """
        is_last = round_number == self._job.stop_round - 1
        while not self.are_done and (is_last or not is_trained()):
            finished, _ = ray.wait([self._future], timeout=_POLL_S)
            self.are_done = bool(finished)
        if self.are_done:
            result_of(self._future)


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
            resources_per_worker=rank_resources(job),
            # Ranks that reserve no CPU would all end up on one node.
            placement_strategy="SPREAD" if job.share_cpus and not config.use_gpu else "PACK",
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


def rank_resources(job: TrainJob) -> dict[str, float]:
    """What Ray sets aside for a rank.

    Ranks that share their CPUs ask for none, so that selection can have them; Ray wants something to be asked for, so
    it is a byte of memory.
    """
    resources = {"memory": 1.0} if job.share_cpus else {"CPU": job.train.cpus_per_rank}
    return {**resources, "GPU": 1.0} if job.train.use_gpu else resources


def _train_rank(settings: dict[str, str]) -> None:
    """One rank; Ray Train has set RANK, WORLD_SIZE and the process group."""
    train(TrainJob.model_validate_json(settings["job"]))
