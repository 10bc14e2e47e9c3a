"""A run under way: its configuration, its folder, its data, and where it stands."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launcher.config import RunConfig
from launcher.expected_length import expected_length
from launcher.run_dir import RunDir, append_line
from launcher.stopping import stop_now
from launcher.training import Ranks
from selection.artifacts import MANIFEST, has_manifest
from selection.errors import ArtifactError
from selection.progress import TerminalProgress
from selection.schedule import count_batches
from selection.shards import ShardIndex
from trainer.checkpoint import (
    Checkpoint,
    checkpoint_folder,
    complete_checkpoints,
    latest_checkpoint,
    open_checkpoint,
)
from trainer.claim import Claim
from trainer.length import RunLength, step_to_select_from
from trainer.worker import TrainJob, stop_file


@dataclass
class Run:
    """A run under way: its configuration, its folder, its data, and how it shows progress."""

    config: RunConfig
    dir: RunDir
    logs: Path
    claim: Claim
    progress: TerminalProgress = field(default_factory=TerminalProgress)
    indexes: dict[str, ShardIndex] = field(default_factory=dict)
    ranks: Ranks | None = None
    """At work, or waiting for the schedule of the next round."""

    def num_batches(self, round_number: int) -> int:
        """Batches of a round that has a schedule."""
        return count_batches(self.dir.schedules, round_number, self.expected(round_number))

    def expected(self, round_number: int) -> dict[str, Any]:
        """What the manifest of the schedule of a round must say."""
        return {"config_hash": self.config.hash, "round": round_number}

    @property
    def length(self) -> RunLength:
        """Rounds and steps, as far as the configuration and the number of pairs tell."""
        return expected_length(self.config, len(self.indexes["train"]))

    def steps_before(self, round_number: int) -> int:
        """Steps of all rounds before this one, which have schedules."""
        num_batches = sum(self.num_batches(number) for number in range(round_number))
        return num_batches * self.config.selection.refresh.epochs_per_round

    def total_steps(self, num_known: int) -> int:
        """Steps of the whole run: those of the configuration, or as the first `num_known` schedules let expect."""
        return self.length.total_steps([self.num_batches(number) for number in range(num_known)])

    def num_schedules(self) -> int:
        """Rounds that have a schedule."""
        return sum(1 for _ in self.dir.schedules.glob(f"round-*/{MANIFEST}"))

    @property
    def stop_file(self) -> Path:
        """See `trainer.stopping`."""
        return stop_file(self.logs)

    def has_trained(self, round_number: int) -> bool:
        """Whether there is a checkpoint at the end of a round."""
        while folders := complete_checkpoints(self.dir.checkpoints):
            try:
                newest = open_checkpoint(folders[-1], self.config.hash, hashes=False)
            except ArtifactError:
                if has_manifest(folders[-1]):
                    raise
                continue  # the ranks have written a newer one since, and keep no more
            return newest.position.round > round_number
        return False

    def ages(self, round_number: int, checkpoint: Checkpoint) -> dict[str, Any]:
        """Step at which the embeddings that a round is selected from were computed, and how old they are then."""
        step = checkpoint.position.step
        if self.config.selection.collects:  # by the weights of half an epoch before, on average
            step -= self.num_batches(round_number - 1) // 2
        return {"embedding_step": step, "staleness_steps": self.steps_before(round_number) - step}

    def newest_checkpoint(self) -> Checkpoint | None:
        """The newest complete checkpoint of this run."""
        return latest_checkpoint(self.dir.checkpoints, self.config.hash)

    def steps_of(self, round_number: int) -> int:
        """Steps of a round that has a schedule."""
        steps_before, num_batches = self.steps_before(round_number), self.num_batches(round_number)
        return self.length.steps_of_round(round_number, num_batches, steps_before)

    def selection_step(self, round_number: int) -> int:
        """Step of a round with whose checkpoint the next one is selected, where they overlap."""
        train, selection = self.config.train, self.config.selection
        num_batches = self.num_batches(round_number)
        return step_to_select_from(train.checkpoint_every_steps, num_batches, selection.collects)

    def checkpoint_in(self, round_number: int, step_in_round: int) -> Checkpoint | None:
        """The checkpoint after some steps of a round, its last one included; None where there is none.

        Its weights are verified by whoever loads them; nobody here reads the rest.
        """
        step = self.steps_before(round_number) + step_in_round
        folder = checkpoint_folder(self.dir.checkpoints, step)
        if not has_manifest(folder):
            return None
        return open_checkpoint(folder, self.config.hash, hashes=False)

    def last_checkpoint_of(self, round_number: int) -> Checkpoint:
        """The checkpoint at the end of a round that was trained."""
        checkpoint = self.checkpoint_in(round_number, self.steps_of(round_number))
        assert checkpoint is not None, f"training has left a checkpoint of round {round_number}"
        return checkpoint

    def train_job(self, first_round: int) -> TrainJob:
        """What ranks that begin with this round do: it, and those after it if they are kept."""
        config, refresh = self.config, self.config.selection.refresh
        return TrainJob(
            encoder=config.encoder,
            train=config.train,
            seed=config.seed,
            config_hash=config.hash,
            index_folder=self.dir.index("train"),
            encoder_folder=self.dir.encoder,
            schedules_folder=self.dir.schedules,
            checkpoints_folder=self.dir.checkpoints,
            metrics_folder=self.dir.metrics,
            embeddings_folder=self.dir.all_embeddings if config.selection.collects else None,
            log_folder=self.logs,
            claim=self.claim,
            first_round=first_round,
            stop_round=config.rounds if refresh.keep_ranks else first_round + 1,
            length=self.length,
            share_cpus=refresh.keep_ranks and not config.selection.overlaps,
            select_ahead=config.selection.overlaps,
        )

    def look_around(self) -> None:
        """What the launcher does while it waits for selection: look at the ranks, and whether it is to stop.

        Raises:
            Stopped: somebody asks to stop.
            JobError: training failed for good.
        """
        if self.stop_file.exists():
            stop_now()
        if self.ranks is not None:
            self.ranks.look()

    @contextmanager
    def timed(self, stage: str, round_number: int) -> Iterator[None]:
        """Note the seconds of a stage; what an interrupted attempt spent is not lost."""
        start = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - start
            self.note(self.dir.stages, {"stage": stage, "round": round_number, "seconds": seconds})

    def note(self, path: Path, record: dict[str, Any]) -> None:
        """Append one JSON line to a file of the run.

        Raises:
            JobError: the run belongs to another attempt now.
        """
        self.claim.check()
        append_line(path, record)
