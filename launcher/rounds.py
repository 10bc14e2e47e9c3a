"""The round, the one picture that everybody needs: select, train, judge, again.

    embed the data set  ->  link what is confused  ->  cut into batches of B  ->  schedule r
            ^                                                                         |
            +------------------------ checkpoint  <-  train on schedule r  <----------+

Each step leaves an artifact in the run directory and is skipped when the artifact is there; that is all there is to
going on after an interruption. Round 0 has no trained encoder yet, so its batches are random for every strategy.
"""

from pathlib import Path

import numpy as np

from launcher.console import describe_schedule, say, showing_stages, showing_training
from launcher.embedding import embedded, gather
from launcher.run_dir import read_lines
from launcher.run_state import Run
from launcher.selecting import SelectTask, select_remotely
from launcher.stopping import Stopped, stop_now, stopping_ranks
from launcher.training import Ranks
from selection.artifacts import has_manifest
from selection.errors import ConfigError
from selection.schedule import Schedule, open_schedule, schedule_folder
from selection.select import make_random_schedule
from selection.shards import build_index
from selection.strategies import plan_num_batches
from trainer.encoders import prepare_encoder
from trainer.evaluate import retrieval_metrics
from trainer.metrics import FILE as METRICS_FILE
from trainer.worker import TrainJob


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
    *earlier, _ = run.length.steps_by_round(known=[])
    num_steps = run.config.train.num_steps
    if num_steps is not None and num_steps <= sum(earlier):
        raise ConfigError(
            f"train.num_steps: is {num_steps:,}, but the {len(earlier)} rounds before the last have {sum(earlier):,}; "
            "take more steps or fewer rounds"
        )


def run_rounds(run: Run) -> None:
    """All rounds that are not done yet; Ray must be connected."""
    try:
        for round_number in range(run.config.rounds):
            select(run, round_number)
            train(run, round_number)
            judge(run, round_number)
            run.claim.check()
            run.dir.forget_embeddings(before_round=round_number)
    except Stopped:
        # Ranks may wait for a schedule; Ray must not be left with them at work.
        if run.ranks is not None:
            run.stop_file.touch()
            run.ranks.wait_for_end()
        raise


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
        gather(run, round_number - 1, checkpoint)
    task = SelectTask(
        folder=folder,
        previous_folder=schedule_folder(run.dir.schedules, round_number - 1),
        embeddings_folder=run.dir.embeddings("train", round_number - 1),
        config=config,
        temperature=config.selection.temperature or checkpoint.temperature,
        seed=seed,
        leftover=leftover,
        fields={"config_hash": config.hash, **run.ages(round_number, checkpoint)},
        progress_file=run.logs / "select.jsonl",
        examples_file=run.dir.examples,
    )
    with run.timed("select", round_number), showing_stages(task.progress_file, run.progress):
        manifest = select_remotely(task, len(run.indexes["train"]))
    say(describe_schedule(f"round {round_number}", manifest))


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
    if run.has_trained(round_number):
        return
    _schedule(run, round_number)  # an altered schedule is an error here, not on rank 7
    with (
        run.timed("train", round_number),
        showing_training(run.dir.metrics / METRICS_FILE, run.progress),
        stopping_ranks(run.stop_file),
    ):
        if run.ranks is None:
            job = train_job(run, round_number)
            run.ranks = Ranks(job, run.logs / "ray_train", run.config.ray)
        run.ranks.wait(round_number, lambda: run.has_trained(round_number))
        if run.stop_file.exists():
            run.ranks.wait_for_end()
    if run.stop_file.exists():
        stop_now()
    if run.ranks.are_done:
        run.ranks = None


def train_job(run: Run, round_number: int) -> TrainJob:
    """What the ranks do: this round, and those after it if they are kept."""
    config = run.config
    refresh = config.selection.refresh
    return TrainJob(
        encoder=config.encoder,
        train=config.train,
        seed=config.seed,
        config_hash=config.hash,
        index_folder=run.dir.index("train"),
        encoder_folder=run.dir.encoder,
        schedules_folder=run.dir.schedules,
        checkpoints_folder=run.dir.checkpoints,
        metrics_folder=run.dir.metrics,
        embeddings_folder=run.dir.all_embeddings if config.selection.collects else None,
        log_folder=run.logs,
        claim=run.claim,
        first_round=round_number,
        stop_round=config.rounds if refresh.keep_ranks else round_number + 1,
        length=run.length,
        share_cpus=refresh.keep_ranks,
    )


def judge(run: Run, round_number: int) -> None:
    """Retrieval on the held-out pairs, and on those for validation, with the checkpoint at the end of a round."""
    if any(result["round"] == round_number for result in read_lines(run.dir.results)):
        return
    checkpoint = run.newest_checkpoint()
    assert checkpoint is not None, "training has left a checkpoint"
    metrics = {}
    with run.timed("judge", round_number):
        distractors = None
        if "distractors" in run.indexes:
            distractors = embedded(run, "distractors", round_number, checkpoint)
        for split in run.judged_splits:
            U, V = embedded(run, split, round_number, checkpoint)
            found = retrieval_metrics(U, V, distractors)
            prefix = "" if split == "heldout" else f"{split}/"
            metrics |= {prefix + name: value for name, value in found.items()}
    run.note(run.dir.results, {"round": round_number, "step": checkpoint.position.step, **metrics})
    say(
        f"round {round_number}  held-out retrieval among {len(run.indexes['heldout']):,} pairs: "
        f"MRR {metrics['u_to_v/mrr']:.4f}  recall@10 {metrics['u_to_v/recall_at_10']:.4f}"
    )
