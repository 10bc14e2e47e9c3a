"""A rank at work: the data, the engine and the log, opened once and used for all rounds of a job."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch.distributed as dist

from selection.collected import collected_folder
from selection.errors import ArtifactError
from selection.schedule import Schedule, count_batches
from selection.shards import ShardIndex
from trainer.checkpoint import Checkpoint, Position, latest_checkpoint, load, prune, save
from trainer.collector import Collector
from trainer.data import RankSampler, round_loader
from trainer.encoders.tokenizer import limit_threads
from trainer.engine import Engine, Horizon, build_engine, rank_device
from trainer.loop import RoundPlan, train_round
from trainer.metrics import MetricsLog
from trainer.model import build_model
from trainer.stopping import StopRequest

if TYPE_CHECKING:
    from trainer.worker import TrainJob

logger = logging.getLogger(__name__)


class Session:
    """The state of one rank between rounds.

    Attributes:
        position: the batch that comes next.
    """

    position: Position

    def __init__(
        self, job: "TrainJob", engine: Engine, horizon: Horizon, index: ShardIndex
    ) -> None:
        """Use `open` instead."""
        self._job = job
        self._engine = engine
        self._horizon = horizon
        self._index = index
        self._collate = engine.module.encoder.collate
        self._schedule_hash: str | None = None
        self._log: MetricsLog | None = None
        self._stop = StopRequest(job.stop_file)
        self.position = Position(round=job.first_round)

    @classmethod
    @contextmanager
    def open(cls, job: "TrainJob") -> Iterator["Session"]:
        """Build the model and go to where the newest checkpoint is; the ranks must have joined.

        Raises:
            ConfigError: the batch does not divide over the ranks.
            ArtifactError: the index, the encoder's folder or the checkpoint is not what the job expects.
        """
        logger.info("building the engine as rank %d of %d", dist.get_rank(), dist.get_world_size())
        limit_threads(max(1, int(job.train.cpus_per_rank)))
        device = rank_device(job.train.use_gpu)
        model = build_model(job.encoder, job.encoder_folder, job.train, job.seed).to(device)
        horizon = Horizon(job.length.total_steps(known=[]))
        engine = build_engine(model, job.train, horizon)
        index = ShardIndex.open(job.index_folder, hashes=False)  # the launcher has hashed it
        session = cls(job, engine, horizon, index)
        session._check_claim()  # going on with another number of ranks writes
        if checkpoint := _newest_checkpoint(job):
            session._go_to(checkpoint)
        if dist.get_rank() == 0:
            session._log = MetricsLog(
                job.metrics_folder, session.position.step, session._check_claim
            )
        try:
            yield session
        finally:
            session._stop.close()
            if session._log is not None:
                session._log.close()
            engine.destroy()

    def stops_here(self, wanted: bool) -> bool:
        """Whether the ranks stop between two rounds, as one of them wants to; all have to ask."""
        return self._stop.agreed_now(wanted)

    def train_round(self, schedule: Schedule) -> None:
        """Train to the end of the round that `position` is in, or to where the job is asked to stop.

        Args:
            schedule: of that round.

        Raises:
            ArtifactError: the round was begun with another schedule.
            JobError: the loss is not finite.
        """
        self._check_schedule(schedule)
        self._horizon.total_steps = self._total_steps()
        train, length = self._job.train, self._job.length
        steps_before = self.position.step - self.position.step_in_round
        plan = RoundPlan(
            train,
            self._job.seed,
            schedule.num_batches,
            length.epochs_per_round,
            self._horizon.total_steps,
            length.steps_of_round(self.position.round, schedule.num_batches, steps_before),
            self._job.selection_step(schedule.num_batches),
        )
        logger.info("training from %s to step %d of the round", self.position, plan.num_steps)
        sampler = RankSampler(
            schedule,
            self.position.step_in_round,
            plan.num_steps,
            dist.get_rank(),
            dist.get_world_size(),
        )
        batches = round_loader(
            self._index, self._collate, sampler, train.reader_processes, pin_memory=train.use_gpu
        )

        collector = self._collector(sampler, plan)
        selection_step = steps_before + (plan.selection_step or plan.num_steps)
        # with the one the launcher judges the round before, with the other it selects the round after
        needed_steps = (steps_before, selection_step) if plan.selection_step else ()

        def save_at(position: Position) -> None:
            if collector is not None:
                self._check_claim()
                if position.step == selection_step:  # the epoch that is noted is over
                    collector.embed(self._engine, self._index, self._collate, schedule.leftover)
                collector.write(position.step)
            self._save(position, schedule.content_hash, needed_steps)

        self.position = train_round(
            self._engine,
            batches,
            self.position,
            plan,
            self._log,
            save_at,
            self._stop.agreed,
            collector.note if collector is not None else None,
        )

    def _collector(self, sampler: RankSampler, plan: RoundPlan) -> Collector | None:
        """What notes the embeddings of the round; nobody asks for those of the last one."""
        round_number, job = self.position.round, self._job
        if job.embeddings_folder is None or round_number == job.length.num_rounds - 1:
            return None
        folder = collected_folder(job.embeddings_folder, round_number)
        end = (plan.selection_step or plan.num_steps) - self.position.step_in_round
        return Collector(
            folder, sampler, noted=range(max(0, end - plan.steps_per_epoch), max(0, end))
        )

    def _total_steps(self) -> int:
        """Steps of the whole run, as far as schedules up to that of the round that `position` is in tell."""
        folder, rounds = self._job.schedules_folder, range(self.position.round + 1)
        return self._job.length.total_steps([count_batches(folder, number) for number in rounds])

    def _check_schedule(self, schedule: Schedule) -> None:
        found = schedule.content_hash
        if self.position.step_in_round and found != self._schedule_hash:
            raise ArtifactError(
                f"schedule of round {self.position.round}: found contents {found}, but the checkpoint at step "
                f"{self.position.step} was made with {self._schedule_hash}; restore that schedule, or delete the "
                f"checkpoints of this round"
            )

    def _check_claim(self) -> None:
        if self._job.claim is not None:
            self._job.claim.check()

    def _go_to(self, checkpoint: Checkpoint) -> None:
        load(self._engine, checkpoint)
        self.position = checkpoint.position
        self._schedule_hash = checkpoint.schedule_hash
        logger.info("going on from %s", checkpoint.folder)

    def _save(self, position: Position, schedule_hash: str, needed_steps: Sequence[int]) -> None:
        self._check_claim()
        folder, job = self._job.checkpoints_folder, self._job
        save(self._engine, folder, position, schedule_hash, job.config_hash)
        if dist.get_rank() == 0:
            prune(folder, job.train.keep_checkpoints, needed_steps)


def _newest_checkpoint(job: "TrainJob") -> Checkpoint | None:
    """What rank 0 finds: on a shared file system, others may not see the newest folder yet.

    Its error travels as well, or the others would wait for an answer that never comes.
    """
    found: list[Checkpoint | ArtifactError | None] = [None]
    if dist.get_rank() == 0:
        try:
            found = [latest_checkpoint(job.checkpoints_folder, job.config_hash)]
        except ArtifactError as error:
            found = [error]
    dist.broadcast_object_list(found)
    (answer,) = found
    if isinstance(answer, ArtifactError):
        raise answer
    return answer
