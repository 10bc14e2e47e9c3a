"""The round, the one picture that everybody needs: select, train, judge, again.

    embed the data set  ->  link what is confused  ->  cut into batches of B  ->  schedule r
            ^                                                                         |
            +------------------------ checkpoint  <-  train on schedule r  <----------+

Each step leaves an artifact in the run directory and is skipped when the artifact is there; that is all there is to
going on after an interruption. Round 0 has no trained encoder yet, so its batches are random for every strategy.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from launcher.config import RunConfig
from launcher.console import describe_schedule, say, showing_stages, showing_training
from launcher.ray_cluster import largest_node_cpus
from launcher.run_dir import RunDir, append_line, read_lines
from launcher.stopping import Stopped, stopping_ranks
from launcher.training import run_ranks
from selection.artifacts import MANIFEST, has_manifest, read_manifest
from selection.embed import embed_dataset
from selection.embeddings import EmbeddingStore, load_contents, load_embeddings
from selection.errors import ConfigError
from selection.examples import pick_examples
from selection.progress import FileProgress, TerminalProgress
from selection.ray_tasks import ray_map, run_remote
from selection.schedule import KIND as SCHEDULE_KIND
from selection.schedule import Schedule, open_schedule, schedule_folder
from selection.select import make_random_schedule, make_schedule
from selection.shards import ShardIndex, build_index
from selection.strategies import plan_num_batches
from trainer.checkpoint import Checkpoint, latest_checkpoint
from trainer.claim import Claim
from trainer.embedder import CheckpointEmbedder
from trainer.encoders import prepare_encoder
from trainer.evaluate import retrieval_metrics
from trainer.metrics import FILE as METRICS_FILE
from trainer.worker import TrainJob


@dataclass
class Run:
    """A run under way: its configuration, its folder, its data, and how it shows progress."""

    config: RunConfig
    dir: RunDir
    logs: Path
    claim: Claim
    progress: TerminalProgress = field(default_factory=TerminalProgress)
    indexes: dict[str, ShardIndex] = field(default_factory=dict)

    def num_batches(self, round_number: int) -> int:
        """Batches of a round that has a schedule."""
        folder = schedule_folder(self.dir.schedules, round_number)
        expected = self.expected(round_number)
        return read_manifest(folder, SCHEDULE_KIND, expected, hashes=False)["num_batches"]

    def expected(self, round_number: int) -> dict[str, Any]:
        """What the manifest of the schedule of a round must say."""
        return {"config_hash": self.config.hash, "round": round_number}

    def steps_before(self, round_number: int) -> int:
        """Steps of all rounds before this one, which have schedules."""
        num_batches = sum(self.num_batches(number) for number in range(round_number))
        return num_batches * self.config.selection.refresh.epochs_per_round

    def total_steps(self, num_known: int) -> int:
        """Steps of the whole run: those of the configuration, or as the first `num_known` schedules let expect.

        Schedules of later rounds are not looked at, so that a round which is resumed has the learning rates that it
        began with.
        """
        if self.config.train.num_steps is not None:
            return self.config.train.num_steps
        return sum(self.steps_by_round(num_known))

    def steps_by_round(self, num_known: int) -> list[int]:
        """Steps of every round, if each goes through its schedule.

        Not every round has N // B batches: a strategy may take fewer, or a guard hold pairs back. Rounds to come are
        expected to be like the last one that was selected, or as the strategy says before there is one.
        """
        num_batches = [self.num_batches(number) for number in range(num_known)]
        num_pairs, batch_size = len(self.indexes["train"]), self.config.train.batch_size
        if not num_batches:
            num_batches.append(num_pairs // batch_size)  # round 0 is random
        if len(num_batches) < self.config.rounds:
            planned = plan_num_batches(self.config.selection, num_pairs, batch_size)
            expected = planned if len(num_batches) == 1 else num_batches[-1]
            num_batches += [expected] * (self.config.rounds - len(num_batches))
        return [number * self.config.selection.refresh.epochs_per_round for number in num_batches]

    def num_schedules(self) -> int:
        """Rounds that have a schedule."""
        return sum(1 for _ in self.dir.schedules.glob(f"round-*/{MANIFEST}"))

    @property
    def judged_splits(self) -> list[str]:
        """Splits on which retrieval is judged."""
        return [split for split in self.indexes if split != "train"]

    def newest_checkpoint(self) -> Checkpoint | None:
        """The newest complete checkpoint of this run."""
        return latest_checkpoint(self.dir.checkpoints, self.config.hash)

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


def prepare(run: Run, shards: dict[str, list[Path]], num_workers: int) -> None:
    """Number the pairs of all splits, check that they make batches, and train the tokenizer; no Ray yet.

    Raises:
        ConfigError: a split is empty, or the training pairs do not suit the batch size, the strategy or the steps.
        ArtifactError: a shard cannot be read, or a sample lacks a part.
    """
    for split, paths in shards.items():
        with run.timed("index", 0):
            run.indexes[split] = build_index(paths, run.dir.index(split), run.progress, num_workers)
        if not len(run.indexes[split]):
            raise ConfigError(f"data.{split}: there is no pair in {len(paths)} shards; give others")
    num_pairs, batch_size = len(run.indexes["train"]), run.config.train.batch_size
    if num_pairs < batch_size:
        raise ConfigError(
            f"train.batch_size: is {batch_size}, but data.train has only {num_pairs} pairs; "
            "take a smaller batch or more shards"
        )
    plan_num_batches(run.config.selection, num_pairs, batch_size)
    _check_num_steps(run)
    with run.timed("encoder", 0):
        prepare_encoder(run.config.encoder, run.indexes["train"], run.dir.encoder, run.progress)


def _check_num_steps(run: Run) -> None:
    *earlier, _ = run.steps_by_round(num_known=0)
    num_steps = run.config.train.num_steps
    if num_steps is not None and num_steps <= sum(earlier):
        raise ConfigError(
            f"train.num_steps: is {num_steps:,}, but the {len(earlier)} rounds before the last have {sum(earlier):,}; "
            "take more steps or fewer rounds"
        )


def run_rounds(run: Run) -> None:
    """All rounds that are not done yet; Ray must be connected."""
    for round_number in range(run.config.rounds):
        select(run, round_number)
        train(run, round_number)
        judge(run, round_number)
        run.claim.check()
        run.dir.forget_embeddings(before_round=round_number)


def select(run: Run, round_number: int) -> None:
    """Make the schedule of a round, from the checkpoint at the end of the round before."""
    folder = schedule_folder(run.dir.schedules, round_number)
    if has_manifest(folder):
        return
    config = run.config
    leftover = _leftover_before(run, round_number)
    seed = (config.seed, round_number)
    if round_number == 0 or config.selection.strategy == "random":
        num_pairs = len(run.indexes["train"])
        fields = {"config_hash": config.hash, "embedding_step": None, "staleness_steps": None}
        schedule = make_random_schedule(
            folder, num_pairs, config.train.batch_size, seed, leftover, fields
        )
        say(describe_schedule(f"round {round_number}", schedule.manifest))
        return
    checkpoint = run.newest_checkpoint()
    assert checkpoint is not None, "a round after the first has a checkpoint before it"
    with run.timed("embed", round_number):
        embed(run, "train", round_number - 1, checkpoint)
    with run.timed("select", round_number), showing_stages(run.logs / "select.jsonl", run.progress):
        manifest = run_remote(
            _select_from_embeddings,
            folder,
            schedule_folder(run.dir.schedules, round_number - 1),
            run.dir.embeddings("train", round_number - 1),
            config,
            config.selection.temperature or checkpoint.temperature,
            seed,
            leftover,
            {
                "config_hash": config.hash,
                "embedding_step": checkpoint.position.step,
                "staleness_steps": run.steps_before(round_number) - checkpoint.position.step,
            },
            run.logs / "select.jsonl",
            run.dir.examples,
            num_cpus=largest_node_cpus(),
        )
    say(describe_schedule(f"round {round_number}", manifest))


def _select_from_embeddings(
    folder: Path,
    previous_folder: Path,
    embeddings_folder: Path,
    config: RunConfig,
    temperature: float,
    seed: tuple[int, int],
    leftover: np.ndarray,
    fields: dict,
    progress_file: Path,
    examples_file: Path,
) -> dict:
    """In a Ray worker, so that nothing of the size of the data set lies on the driver."""
    embeddings = load_embeddings(embeddings_folder)
    schedule = make_schedule(
        folder,
        embeddings,
        config.train.batch_size,
        temperature,
        config.selection,
        seed,
        leftover,
        fields,
        map_tasks=ray_map,
        progress=FileProgress(progress_file),
        previous_batches=open_schedule(previous_folder).batches,
        contents=load_contents(embeddings_folder),
    )
    rng = np.random.default_rng(seed)
    examples = pick_examples(*embeddings, schedule.batches, temperature, rng)
    append_line(examples_file, {"round": seed[1], "batches": examples})
    return schedule.manifest


def _leftover_before(run: Run, round_number: int) -> np.ndarray:
    """Ids that the round before left over."""
    if round_number == 0:
        return np.empty(0, np.int64)
    return np.asarray(_schedule(run, round_number - 1).leftover)


def _schedule(run: Run, round_number: int) -> Schedule:
    folder = schedule_folder(run.dir.schedules, round_number)
    return open_schedule(folder, run.expected(round_number))


def train(run: Run, round_number: int) -> None:
    """Train on the schedule of a round; the ranks go on from the newest complete checkpoint."""
    checkpoint = run.newest_checkpoint()
    if checkpoint and checkpoint.position.round > round_number:
        return
    _schedule(run, round_number)  # an altered schedule is an error here, not on rank 7
    job = TrainJob(
        encoder=run.config.encoder,
        train=run.config.train,
        seed=run.config.seed,
        config_hash=run.config.hash,
        index_folder=run.dir.index("train"),
        encoder_folder=run.dir.encoder,
        schedules_folder=run.dir.schedules,
        checkpoints_folder=run.dir.checkpoints,
        metrics_folder=run.dir.metrics,
        log_folder=run.logs,
        claim=run.claim,
        first_round=round_number,
        stop_round=round_number + 1,
        epochs_per_round=run.config.selection.refresh.epochs_per_round,
        total_steps=run.total_steps(num_known=round_number + 1),
        end_step=run.config.train.num_steps if round_number == run.config.rounds - 1 else None,
    )
    with (
        run.timed("train", round_number),
        showing_training(run.dir.metrics / METRICS_FILE, run.progress),
        stopping_ranks(job.stop_file),
    ):
        run_ranks(job, storage=run.logs / "ray_train")
    if job.stop_file.exists():
        raise Stopped


def judge(run: Run, round_number: int) -> None:
    """Retrieval on the held-out pairs, and on those for validation, with the checkpoint at the end of a round."""
    if any(result["round"] == round_number for result in read_lines(run.dir.results)):
        return
    checkpoint = run.newest_checkpoint()
    assert checkpoint is not None, "training has left a checkpoint"
    metrics = {}
    with run.timed("judge", round_number):
        for split in run.judged_splits:
            embed(run, split, round_number, checkpoint)
            found = retrieval_metrics(*load_embeddings(run.dir.embeddings(split, round_number)))
            prefix = "" if split == "heldout" else f"{split}/"
            metrics |= {prefix + name: value for name, value in found.items()}
    run.note(run.dir.results, {"round": round_number, "step": checkpoint.position.step, **metrics})
    say(
        f"round {round_number}  held-out retrieval among {len(run.indexes['heldout']):,} pairs: "
        f"MRR {metrics['u_to_v/mrr']:.4f}  recall@10 {metrics['u_to_v/recall_at_10']:.4f}"
    )


def embed(run: Run, split: str, round_number: int, checkpoint: Checkpoint) -> None:
    """Embed a split with a checkpoint into the store of a round."""
    index, config = run.indexes[split], run.config
    store = EmbeddingStore(
        run.dir.embeddings(split, round_number),
        shard_sizes=np.diff(index.shard_starts).tolist(),
        inputs={
            "index": index.content_hash,
            "checkpoint": checkpoint.weights_hash,
            "dtype": config.selection.embed.dtype,
        },
    )
    make_embedder = partial(
        CheckpointEmbedder,
        config.encoder,
        run.dir.encoder,
        checkpoint.folder,
        device="cuda" if config.selection.embed.gpus_per_worker else "cpu",
        num_threads=max(1, int(config.selection.embed.cpus_per_worker)),
    )
    embed_dataset(
        index,
        run.dir.index(split),
        store,
        make_embedder,
        config.selection.embed,
        run.progress,
        stage=f"embed {split}",
    )
