"""Where a run stands: pure functions of what was observed."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from launcher.attempts import Attempt, find_error, last_error
from launcher.record import SELECTION_STAGES, Record
from launcher.slurm_jobs import SlurmJob
from launcher.status.reading import Observation, Owner, Stage

STATES = ("not begun", "queued", "running", "stopped", "failed", "finished")
_RATE_LINES = 20


@dataclass(frozen=True)
class Standing:
    """Where a run stands; what is not known is None."""

    name: str
    """Name of its folder."""

    run_dir: Path
    state: str
    """One of `STATES`."""

    why: str
    """What the state does not say by itself."""

    round: int | None
    """The round it is in, from 0."""

    num_finished_rounds: int
    num_rounds: int | None
    step: int
    total_steps: int | None
    steps_per_s: float | None
    pairs_per_s: float | None

    stage: Stage | None
    """What it does now; None: nothing."""

    eta_s: float | None
    """Seconds until it has finished, at the rates so far."""

    retrieval: dict[str, Any] | None
    """Held-out metrics after the newest finished round."""

    error: tuple[int, str] | None
    """Attempt, 0 before the first one of a job, and text of the last thing that went wrong."""

    attempt: int | None
    owner: Owner | None
    jobs: list[SlurmJob]
    """Those of which SLURM knows, and the newest one."""

    logs: list[Path]
    """Folder of the newest attempt, and what the newest job prints."""


def find_standing(seen: Observation) -> Standing:
    """Where a run stands."""
    record, attempts = seen.record, seen.attempts
    state, why = decide_state(seen)
    lines = record.lines if record else []
    step_s = seconds_per_step(lines)
    total = total_steps(record) if record else None
    step = record.num_steps if record else 0
    is_finished = state == "finished"
    is_running = state == "running"
    return Standing(
        name=seen.dir.root.name,
        run_dir=seen.dir.root,
        state=state,
        why=why,
        round=current_round(record) if record and not is_finished else None,
        num_finished_rounds=len(record.rounds) if record else 0,
        num_rounds=record.config.rounds if record else None,
        step=step,
        total_steps=total,
        steps_per_s=1 / step_s if step_s else None,
        pairs_per_s=record.config.train.batch_size / step_s if record and step_s else None,
        stage=_stage(seen) if is_running else None,
        eta_s=(
            remaining_s(record, total - step, step_s)
            if record and is_running and total and step_s
            else None
        ),
        retrieval=record.rounds[-1] if record and record.rounds else None,
        error=None if is_finished else _last_error(seen),
        attempt=attempts[-1].number if attempts else None,
        owner=seen.owner,
        jobs=[job for job in seen.jobs if job.state] or seen.jobs[-1:],
        logs=[
            *(attempt.folder for attempt in attempts[-1:]),
            *(job.log for job in seen.jobs[-1:] if job.log.exists()),
        ],
    )


def _last_error(seen: Observation) -> tuple[int, str] | None:
    """Number of an attempt, 0 for a job in which the run has not begun, and what went wrong there."""
    job = newest_without_attempt(seen.jobs, seen.attempts)
    if job and job.log.is_file() and (error := find_error([job.log])):
        return 0, error
    return last_error(seen.attempts)


def decide_state(seen: Observation) -> tuple[str, str]:
    """One of `STATES`, and what it does not say by itself."""
    if seen.record and seen.record.is_finished:
        return "finished", ""
    if seen.owner and seen.owner.is_alive:
        return "running", ""
    for job in reversed(seen.jobs):
        if job.is_at_work and not _has_failed_in(job, seen.attempts):
            return "running", f"job {job.job_id} is {job.state}, and the run has yet to begin in it"
        if job.is_waiting:
            return "queued", f"job {job.job_id} is {job.state}: {job.reason or 'no reason given'}"
    if job := newest_without_attempt(seen.jobs, seen.attempts):
        return _after_job(job, seen)
    return _after_attempt(seen) if seen.attempts else ("not begun", "")


def _has_failed_in(job: SlurmJob, attempts: Sequence[Attempt]) -> bool:
    """Whether all that is left of the job is to clean up: it goes on after a stop, but not after a failure."""
    last = attempts[-1] if attempts else None
    return last is not None and last.began >= job.submitted and last.outcome == "failed"


def newest_without_attempt(
    jobs: Sequence[SlurmJob], attempts: Sequence[Attempt]
) -> SlurmJob | None:
    """The newest job, where the run has not begun in it: there is no attempt since it was submitted."""
    if not jobs:
        return None
    return None if attempts and attempts[-1].began >= jobs[-1].submitted else jobs[-1]


def _after_attempt(seen: Observation) -> tuple[str, str]:
    """When no attempt is at work, and none is going to be."""
    last = seen.attempts[-1]
    if last.outcome == "failed":
        return "failed", ""
    if last.outcome == "stopped":
        return "stopped", "the same command goes on from there"
    job = next((job for job in seen.jobs if seen.owner and str(job.job_id) == seen.owner.job), None)
    if job and job.state:
        state = "stopped" if job.state == "CANCELLED" else "failed"
        return state, f"job {job.job_id} is {job.state}"
    return "failed", "its process ended without a word: it was killed, or its machine went down"


def _after_job(job: SlurmJob, seen: Observation) -> tuple[str, str]:
    """When the run has not begun in it."""
    if job.state == "CANCELLED":
        return "stopped", f"job {job.job_id} is CANCELLED"
    if job.state:
        return "failed", f"job {job.job_id} is {job.state} before the run began"
    if job.log.is_file() and find_error([job.log]):
        return "failed", f"job {job.job_id} went wrong before the run began"
    state, _ = _after_attempt(seen) if seen.attempts else ("not begun", "")
    return state, f"job {job.job_id} was submitted, and SLURM does not say more here"


def _stage(seen: Observation) -> Stage:
    return seen.stage if seen.owner and seen.owner.is_alive else Stage("start")


def current_round(record: Record) -> int:
    """The round that is trained, even where the one before is yet to be judged."""
    return max(len(record.rounds), record.lines[-1]["round"] if record.lines else 0)


def seconds_per_step(lines: Sequence[dict[str, Any]]) -> float | None:
    """Of the last lines of metrics; the median, so that checkpoints, rounds and restarts in between do not count."""
    between = [
        (after["time"] - before["time"]) / (after["step"] - before["step"])
        for before, after in pairwise(lines[-_RATE_LINES:])
        if after["step"] > before["step"] and after["time"] > before["time"]
    ]
    return median(between) if between else None


def total_steps(record: Record) -> int | None:
    """Steps of the whole run: what training says, or the configuration, or the schedules let expect."""
    if record.lines and "total_steps" in record.lines[-1]:
        return int(record.lines[-1]["total_steps"])
    known = [manifest["num_batches"] for manifest in record.manifests]
    if not known:
        return record.config.train.num_steps
    from launcher.expected_length import expected_length  # it takes seconds to import strategies

    length = expected_length(record.config, record.manifests[0]["num_pairs"])
    return length.total_steps(known)


def remaining_s(record: Record, num_steps: int, step_s: float) -> float:
    """Seconds that `num_steps` more steps take, and the selecting and judging of the rounds that are left.

    Where they overlap training, the longer of the two counts, and judging the last round.
    """
    config = record.config
    num_schedules, num_judged = len(record.manifests), len(record.rounds)
    num_unselected = config.rounds - max(1, num_schedules)
    train_s, judge_s = max(0, num_steps) * step_s, _mean_s(record, "judge")
    select_s = sum(_mean_s(record, stage) for stage in SELECTION_STAGES)
    if config.selection.overlaps:
        num_judged_at_end = int(num_judged < config.rounds)
        return max(train_s, num_unselected * (select_s + judge_s)) + num_judged_at_end * judge_s
    return train_s + num_unselected * select_s + (config.rounds - num_judged) * judge_s


def _mean_s(record: Record, stage: str) -> float:
    """Seconds that a stage took per round so far; none where it has not been."""
    seconds = [line["seconds"] for line in record.stages if line["stage"] == stage]
    return sum(seconds) / len(seconds) if seconds else 0.0
