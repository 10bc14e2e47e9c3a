"""The round, the one picture that everybody needs: select, train, judge, again.

    embed the data set  ->  link what is confused  ->  cut into batches of B  ->  schedule r
            ^                                                                         |
            +------------------------ checkpoint  <-  train on schedule r  <----------+

Each step leaves an artifact in the run directory and is skipped when the artifact is there; that is all there is to
going on after an interruption. Round 0 has no trained encoder yet, so its batches are random for every strategy.

Steps take turns, or they overlap, see `selection.refresh.mode`:

    alternate   train 0 | judge 0 | select 1 | train 1 | judge 1 | select 2 | train 2 ...
    overlap     train 0 ......... | train 1 .................. | train 2 ..................
                         select 1 | judge 0           select 2 | judge 1           select 3

Where they overlap, a schedule is selected from the first checkpoint inside the round before, or from the embeddings
that its first epoch computed. Which one that is depends on no clock, so that a run which was interrupted has the same
schedules. The launcher does one thing after the other in either mode: ranks are processes of their own, which take the
next schedule as soon as it is there, and whatever waits for selection looks at them meanwhile (`Run.look_around`).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np

from launcher.console import describe_schedule, say, showing_stages, showing_training
from launcher.embedding import embedded, gather
from launcher.placement import check_room
from launcher.run_dir import read_lines
from launcher.run_state import Run
from launcher.selecting import SelectTask, select_remotely
from launcher.stopping import Stopped, stop_now, stopping_ranks
from launcher.training import Ranks
from selection.artifacts import has_manifest
from selection.progress import TerminalProgress
from selection.ray_tasks import do_nothing
from selection.schedule import Schedule, open_schedule, schedule_folder
from selection.select import make_random_schedule
from trainer.checkpoint import Checkpoint
from trainer.datasets.cifar100_c import count_corruptions
from trainer.evaluate import corrupted_retrieval, retrieval_metrics


def run_rounds(run: Run) -> None:
    """All rounds that are not done yet; Ray must be connected."""
    if run.config.selection.overlaps:
        _overlap(run)
    else:
        _alternate(run)


def _alternate(run: Run) -> None:
    with _leaving_no_ranks(run):
        for round_number in range(run.config.rounds):
            select(run, round_number)
            with showing_training(run.dir.training, run.progress):
                train(run, round_number)
            _judge_and_forget(run, round_number)


def _overlap(run: Run) -> None:
    with (
        TerminalProgress() as progress,
        showing_training(run.dir.training, progress),
        _leaving_no_ranks(run),
    ):
        for round_number in range(run.config.rounds):
            select(run, round_number)  # the first, and one that could not be selected ahead
            train(run, round_number, beside=partial(_work_beside, run, round_number))
    _judge_and_forget(run, run.config.rounds - 1)


@contextmanager
def _leaving_no_ranks(run: Run) -> Iterator[None]:
    """Whatever goes wrong, let the ranks save and stop, whether they train or wait for a schedule."""
    try:
        yield
    except (Stopped, Exception):  # not Ctrl-C, which ends the run at once
        if run.ranks is not None:
            with stopping_ranks(run.stop_file):
                run.stop_file.touch()
                run.ranks.wait_for_end()
        raise


def _work_beside(run: Run, round_number: int) -> None:
    """What is done while the ranks train a round."""
    if round_number > 0:
        _judge_and_forget(run, round_number - 1)
    if round_number + 1 < run.config.rounds:
        select_ahead(run, round_number + 1)


def _judge_and_forget(run: Run, round_number: int) -> None:
    judge(run, round_number)
    run.claim.check()
    run.dir.forget_embeddings(round_number, *(set(run.indexes) - {"train"}))


def select(run: Run, round_number: int) -> None:
    """Make the schedule of a round, from the checkpoint at the end of the round before."""
    if has_manifest(schedule_folder(run.dir.schedules, round_number)):
        return
    if round_number == 0 or run.config.selection.strategy == "random":
        _draw(run, round_number)
    else:
        _choose(run, round_number, run.last_checkpoint_of(round_number - 1))


def select_ahead(run: Run, round_number: int) -> None:
    """Make the schedule of a round while the ranks train the one before, from a checkpoint inside that.

    Nothing is made where there is none, because the round is shorter than was expected.
    """
    if not run.config.selection.selects_ahead:
        select(run, round_number)  # random batches need no checkpoint
    elif not has_manifest(schedule_folder(run.dir.schedules, round_number)):
        checkpoint = _wait_for_checkpoint_inside(run, round_number - 1)
        if checkpoint is not None:
            check_room(run.config)
            _choose(run, round_number, checkpoint)


def _wait_for_checkpoint_inside(run: Run, round_number: int) -> Checkpoint | None:
    """The checkpoint inside a round to select the next from, which is trained now, or was; None where it has none."""
    step = run.selection_step(round_number)
    if step >= run.steps_of(round_number):
        return None
    if run.ranks is not None:
        run.ranks.wait_until(
            lambda: bool(run.checkpoint_in(round_number, step)) or run.has_trained(round_number)
        )
    return run.checkpoint_in(round_number, step)


def _draw(run: Run, round_number: int) -> None:
    """Make a schedule of random batches."""
    schedule = make_random_schedule(
        schedule_folder(run.dir.schedules, round_number),
        len(run.indexes["train"]),
        run.config.train.batch_size,
        (run.config.seed, round_number),
        _leftover_before(run, round_number),
        {"config_hash": run.config.hash, "embedding_step": None, "staleness_steps": None},
    )
    say(describe_schedule(f"round {round_number}", schedule.manifest))


def _choose(run: Run, round_number: int, checkpoint: Checkpoint) -> None:
    """Make a schedule of batches that are chosen by a checkpoint of the round before."""
    config = run.config
    run.claim.check()
    run.dir.forget_embeddings(round_number - 1, "train")
    with run.timed("embed", round_number):
        gather(run, round_number - 1, checkpoint)
    task = SelectTask(
        folder=schedule_folder(run.dir.schedules, round_number),
        previous_folder=schedule_folder(run.dir.schedules, round_number - 1),
        embeddings_folder=run.dir.embeddings("train", round_number - 1),
        config=config,
        temperature=config.selection.temperature or checkpoint.temperature,
        seed=(config.seed, round_number),
        leftover=_leftover_before(run, round_number),
        fields={"config_hash": config.hash, **run.ages(round_number, checkpoint)},
        progress_file=run.logs / "select.jsonl",
        examples_file=run.dir.examples,
    )
    with run.timed("select", round_number), showing_stages(task.progress_file, run.progress):
        manifest = select_remotely(task, len(run.indexes["train"]), run.look_around)
    say(describe_schedule(f"round {round_number}", manifest))


def _leftover_before(run: Run, round_number: int) -> np.ndarray:
    """Ids that the round before left over."""
    if round_number == 0:
        return np.empty(0, np.int64)
    return np.asarray(_schedule(run, round_number - 1).leftover)


def _schedule(run: Run, round_number: int) -> Schedule:
    folder = schedule_folder(run.dir.schedules, round_number)
    return open_schedule(folder, run.expected(round_number))


def train(run: Run, round_number: int, beside: Callable[[], None] = do_nothing) -> None:
    """Train on the schedule of a round; the ranks go on from the newest complete checkpoint.

    Args:
        run: under way.
        round_number: which.
        beside: what is done meanwhile; whatever in it takes long must call `run.look_around`.
    """
    if run.has_trained(round_number):
        beside()
        return
    _schedule(run, round_number)  # an altered schedule is an error here, not on rank 7
    with stopping_ranks(run.stop_file), run.timed("train", round_number):
        if run.ranks is None:
            run.ranks = Ranks(
                run.train_job(round_number),
                run.logs / "ray_train",
                run.config.ray,
                run.config.selection.cpus_beside_ranks,
            )
        beside()
        run.ranks.wait(round_number, lambda: run.has_trained(round_number))
        if run.stop_file.exists():
            run.ranks.wait_for_end()
    if run.stop_file.exists():
        stop_now()
    if run.ranks.are_done:
        run.ranks = None


def judge(run: Run, round_number: int) -> None:
    """Retrieval on the held-out pairs, and on what else is judged, with the checkpoint at the end of a round."""
    if any(result["round"] == round_number for result in read_lines(run.dir.results)):
        return
    checkpoint = run.last_checkpoint_of(round_number)
    metrics = {}
    with run.timed("judge", round_number):
        splits = [split for split in run.indexes if split != "train"]
        embeddings = embedded(run, splits, round_number, checkpoint)
        distractors = embeddings.pop("distractors", None)
        for split, (U, V) in embeddings.items():
            if split == "corrupted":
                found = corrupted_retrieval(U, V, count_corruptions(run.indexes[split]))
            else:
                found = retrieval_metrics(U, V, distractors)
            prefix = "" if split == "heldout" else f"{split}/"
            metrics |= {prefix + name: value for name, value in found.items()}
    run.note(run.dir.results, {"round": round_number, "step": checkpoint.position.step, **metrics})
    say(
        f"round {round_number}  held-out retrieval among {len(run.indexes['heldout']):,} pairs: "
        f"MRR {metrics['u_to_v/mrr']:.4f}  recall@10 {metrics['u_to_v/recall_at_10']:.4f}"
    )
