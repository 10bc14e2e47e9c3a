"""Start the trainer's ranks with Ray Train, which restarts them when some are lost.

Where Ray finds no place for all of them any more, as after the loss of a node that does not come back, they go on with
fewer, if the configuration allows it. Ray Train's own elasticity is not used: it takes any number of ranks between two,
and most of them do not divide a batch.
"""

import os
from collections.abc import Callable
from pathlib import Path

import ray

from launcher.config import RayConfig
from launcher.console import say
from launcher.placement import num_places_beside, on_nodes, on_this_node, rank_resources
from launcher.stopping import keeping_handlers
from selection.errors import JobError
from selection.ray_tasks import POLL_S, result_of, start_remote
from trainer.worker import TrainJob, train

_PLACE_TIMEOUT_VARIABLE = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"


class Ranks:
    """The ranks of a job, started here; between two rounds they wait for the schedule of the next one.

    Args:
        job: what the ranks do; they go on from the newest complete checkpoint by themselves.
        storage: where Ray Train keeps its own notes, on a file system that all nodes see.
        config: where the ranks run, and how often they are started again.
        cpus_beside: CPUs that they must leave for selection, on one node.
    """

    def __init__(
        self, job: TrainJob, storage: Path, config: RayConfig, cpus_beside: float = 0.0
    ) -> None:
        self._job = job
        self._storage = storage
        self._config = config
        self._cpus_beside = cpus_beside
        self._start(choose_num_ranks(job, config, cpus_beside))
        self.are_done = False

    def _start(self, num_ranks: int) -> None:
        self._num_ranks = num_ranks
        self._future = start_remote(
            _fit,
            self._job.model_dump_json(),
            num_ranks,
            self._storage,
            self._config,
            num_cpus=0,
            placement=on_this_node(),
        )

    def wait(self, round_number: int, is_trained: Callable[[], bool]) -> None:
        """Wait until the ranks have trained a round, or have ended.

        Args:
            round_number: which; after the last one of the job, the ranks end.
            is_trained: whether its last checkpoint is complete.

        Raises:
            JobError: training failed for good, or there is no place for the ranks; the message names the logs.
        """
        is_last = round_number == self._job.stop_round - 1
        self.wait_until(lambda: not is_last and is_trained())

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until something is so, or the ranks have ended; errors as for `wait`."""
        while not self.are_done and not condition():
            self.look(POLL_S)

    def look(self, timeout_s: float = 0.0) -> None:
        """See whether the ranks have ended, or did not begin and must be fewer; errors as for `wait`."""
        if self.are_done:
            return
        finished, _ = ray.wait([self._future], timeout=timeout_s)
        if finished:
            self._look_at_end(result_of(self._future))

    def wait_for_end(self) -> None:
        """Wait until the ranks have ended, as they are asked to by the stop file of the job."""
        ray.wait([self._future])
        self.are_done = True

    def _look_at_end(self, obstacle: str | None) -> None:
        """The ranks have ended, or did not begin."""
        self.are_done = obstacle is None
        if obstacle is None:
            return
        fewer = choose_num_ranks(self._job, self._config, self._cpus_beside)
        if fewer >= self._num_ranks:
            raise JobError(f"training did not start: {obstacle}; see {self._job.log_folder}")
        self._start(fewer)


def choose_num_ranks(job: TrainJob, config: RayConfig, cpus_beside: float = 0.0) -> int:
    """How many ranks to start: as many as Ray's nodes hold now, beside what selection needs on one of them.

    Raises:
        JobError: they do not even hold the fewest.
    """
    places = num_places_beside(rank_resources(job.train, job.share_cpus), config, cpus_beside)
    wanted, possible = job.train.num_ranks, job.train.possible_num_ranks()
    fitting = [number for number in possible if number <= places]
    if not fitting:
        raise JobError(
            f"training: Ray's nodes hold {places} ranks, but train needs {possible[-1]}; bring back the nodes that are "
            "lost and run the same command again, or lower train.min_ranks"
        )
    if fitting[0] < wanted:
        say(f"training on {fitting[0]} ranks instead of {wanted}: no place for more")
    return fitting[0]


def _fit(job_text: str, num_ranks: int, storage: Path, ray_config: RayConfig) -> str | None:
    """In a Ray worker: Ray Train puts signal handlers in place and would end the launcher by itself on Ctrl-C.

    Returns:
        None when training has ended, otherwise why the ranks could not be started.
    """
    import ray.train  # here alone, as it takes as long to import as torch
    from ray.train.torch import TorchConfig, TorchTrainer

    job = TrainJob.model_validate_json(job_text)
    config = job.train
    # Ray Train looks for a place that often, and as long each time.
    num_searches = 1 + ray_config.max_restarts
    os.environ[_PLACE_TIMEOUT_VARIABLE] = str(ray_config.join_timeout_s / num_searches)
    trainer = TorchTrainer(
        _train_rank,
        train_loop_config={"job": job_text},
        torch_config=TorchConfig(backend="nccl" if config.use_gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=num_ranks,
            use_gpu=config.use_gpu,
            resources_per_worker=rank_resources(config, job.share_cpus),
            # Ranks that reserve no CPU would all end up on one node.
            placement_strategy="SPREAD" if job.share_cpus and not config.use_gpu else "PACK",
            **on_nodes(ray_config.train_labels),
        ),
        run_config=ray.train.RunConfig(
            name=f"rounds-{job.first_round:05d}-{job.stop_round:05d}-on-{num_ranks}",
            storage_path=str(storage),
            failure_config=ray.train.FailureConfig(
                max_failures=ray_config.max_restarts,
                controller_failure_limit=ray_config.max_restarts,
            ),
        ),
    )
    try:
        with keeping_handlers():  # later tasks of this worker are cancelled by the same signal
            trainer.fit()
    except ray.train.ControllerError as error:
        return str(error.controller_failure).strip().splitlines()[-1]
    except ray.train.TrainingFailedError as error:
        reason = str(error).strip().splitlines()[-1]
        raise JobError(f"training failed: {reason}; see {job.log_folder}") from error
    return None


def _train_rank(settings: dict[str, str]) -> None:
    """One rank; Ray Train has set RANK, WORLD_SIZE and the process group."""
    train(TrainJob.model_validate_json(settings["job"]))
