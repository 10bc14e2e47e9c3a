"""What the files of a run directory, this machine and SLURM say of a run; nothing is changed."""

import json
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from launcher.attempts import Attempt, read_attempts
from launcher.ownership import TOUCH_EVERY_S, find_process
from launcher.record import Record, read_record
from launcher.run_dir import RunDir, no_run, read_lines
from launcher.slurm_jobs import SlurmJob, ask_slurm, read_jobs
from selection.artifacts import MANIFEST, has_manifest
from selection.errors import ConfigError
from selection.schedule import schedule_folder
from trainer.claim import read_owner

_SILENT_AFTER_S = 12 * TOUCH_EVERY_S  # file systems show others' changes late, and clocks differ


@dataclass(frozen=True)
class Owner:
    """The attempt whose name stands in the owner file."""

    name: str
    heard_s: float
    """Seconds since it last touched the file, by this machine's clock."""

    is_alive: bool
    """Whether its process lives or, on another machine, was heard of lately."""

    job: str = ""
    """Number of the SLURM job that it belongs to."""


@dataclass(frozen=True)
class Stage:
    """What a run does now, or would do next."""

    name: str
    """As `launcher.record.STAGES` has it; `start`, before anything else."""

    part: str = ""
    """The part of it that is under way, such as `cluster`."""

    done: int | None = None
    total: int | None = None
    unit: str = ""

    beside: "Stage | None" = None
    """What goes on at the same time, where selection overlaps training."""


@dataclass(frozen=True)
class Observation:
    """All that is known of a run at one moment."""

    dir: RunDir
    now: float
    record: Record | None
    """None: the run has no configuration yet."""

    owner: Owner | None
    attempts: list[Attempt]
    jobs: list[SlurmJob]
    stage: Stage


def observe(roots: Sequence[Path]) -> list[Observation]:
    """Look at runs; SLURM is asked once for all of them.

    Raises:
        ConfigError: one of them is no run.
        ArtifactError: a schedule is damaged.
    """
    found = [_look(root) for root in roots]
    asked = iter(ask_slurm([job for observation in found for job in observation.jobs]))
    return [replace(each, jobs=[next(asked) for _ in each.jobs]) for each in found]


def _look(root: Path) -> Observation:
    if root.is_file():
        raise ConfigError(
            f"{root}: is a file; give the folder of a run, `run_dir` in its configuration"
        )
    run_dir = RunDir(root)
    jobs = read_jobs(run_dir)
    owner = read_owner_file(run_dir)
    if not (run_dir.config.is_file() or owner or jobs):
        raise no_run(root)
    record = read_record(root) if run_dir.config.is_file() else None
    attempts = read_attempts(run_dir)
    return Observation(
        dir=run_dir,
        now=time.time(),
        record=record,
        owner=owner,
        attempts=attempts,
        jobs=jobs,
        stage=find_stage(run_dir, record, attempts[-1].folder if attempts else None),
    )


def read_owner_file(run_dir: RunDir) -> Owner | None:
    """Who owns a run directory, dead or alive."""
    owner = read_owner(run_dir.owner)
    try:
        heard_s = max(0.0, time.time() - run_dir.owner.stat().st_mtime)
    except FileNotFoundError:
        return None
    is_alive = heard_s < _SILENT_AFTER_S
    if owner.get("host") == socket.gethostname():
        is_alive = find_process(owner) is not None
    return Owner(owner.get("name", "somebody"), heard_s, is_alive, owner.get("job", ""))


def find_stage(run_dir: RunDir, record: Record | None, logs: Path | None) -> Stage:
    """The first step of `launcher.rounds` whose artifact is not there.

    Args:
        run_dir: of the run.
        record: what it wrote.
        logs: folder of its newest attempt.
    """
    if record is None:
        return Stage("index") if logs else Stage("start")
    round_number = len(record.rounds)
    if not has_manifest(run_dir.encoder):
        return Stage("encoder")
    if round_number == record.config.rounds:
        return Stage("judge")  # the last one is over
    num_trained = _trained_rounds(run_dir)
    if record.config.selection.overlaps and 0 < num_trained < record.config.rounds:
        return _overlapping(run_dir, record, logs, num_trained)
    if not _has_schedule(run_dir, round_number):
        return _selection(run_dir, record, logs, round_number)
    if num_trained > round_number:
        return _judging(run_dir, record, round_number)
    return Stage("train", beside=_beside(run_dir, record, logs, round_number))


def _overlapping(run_dir: RunDir, record: Record, logs: Path | None, num_trained: int) -> Stage:
    """Training and what goes on beside it; that alone while there is no schedule to train on."""
    if _has_schedule(run_dir, num_trained):
        return Stage("train", beside=_beside(run_dir, record, logs, num_trained))
    return _beside(run_dir, record, logs, num_trained - 1) or Stage("select")


def _beside(run_dir: RunDir, record: Record, logs: Path | None, round_number: int) -> Stage | None:
    """What `launcher.rounds` does while a round is trained."""
    if not record.config.selection.overlaps:
        return None
    if len(record.rounds) < round_number:
        return _judging(run_dir, record, round_number - 1)
    is_last = round_number + 1 == record.config.rounds
    has_begun = run_dir.embeddings("train", round_number).exists()
    if is_last or not has_begun or _has_schedule(run_dir, round_number + 1):
        return None
    return _selection(run_dir, record, logs, round_number + 1)


def _selection(run_dir: RunDir, record: Record, logs: Path | None, round_number: int) -> Stage:
    if round_number == 0 or record.strategy == "random":
        return Stage("select")
    embeddings = run_dir.embeddings("train", round_number - 1)
    if not has_manifest(embeddings):
        return _embedding("embed", run_dir, ["train"], round_number - 1)
    return _selecting(logs, since=(embeddings / MANIFEST).stat().st_mtime)


def _has_schedule(run_dir: RunDir, round_number: int) -> bool:
    return has_manifest(schedule_folder(run_dir.schedules, round_number))


def _judging(run_dir: RunDir, record: Record, round_number: int) -> Stage:
    """All splits that are judged are embedded in one pass, which the console calls by the first of them."""
    splits = [split for split, _ in record.config.data.splits() if split != "train"]
    return _embedding("judge", run_dir, splits, round_number)


def _embedding(stage: str, run_dir: RunDir, splits: Sequence[str], round_number: int) -> Stage:
    name, done, total = f"embed {splits[0]}", 0, 0
    for split in splits:
        done += sum(1 for _ in run_dir.embeddings(split, round_number).glob("shard-*.npy"))
        try:
            total += len(json.loads((run_dir.index(split) / MANIFEST).read_text())["shards"])
        except FileNotFoundError:  # it is being brought up to date, or is gone
            return Stage(stage, name)
    return Stage(stage, name, done, total, "shards")


def _selecting(logs: Path | None, since: float) -> Stage:
    """The last thing that the worker said of it."""
    events = read_lines(logs / "select.jsonl") if logs else []
    if not events or events[-1]["time"] < since:
        return Stage("select")
    event: dict[str, Any] = events[-1]
    return Stage("select", event["stage"], event["done"], event["total"], event["unit"])


def _trained_rounds(run_dir: RunDir) -> int:
    """The round of the batch that comes after the newest complete checkpoint."""
    for manifest in sorted(run_dir.checkpoints.glob(f"step-*/{MANIFEST}"), reverse=True):
        try:
            return json.loads(manifest.read_text())["round"]
        except FileNotFoundError:  # the trainer keeps the newest ones only
            continue
    return 0
