"""The SLURM jobs of a run: their numbers from the run directory, their states from SLURM where it is at hand."""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from launcher.run_dir import RunDir
from launcher.slurm import JOBS, SCRIPT, tell_slurm
from selection.errors import JobError

WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "SUSPENDED")
AT_WORK = ("RUNNING", "CONFIGURING", "COMPLETING", "STAGE_OUT", "SIGNALING", "RESIZING", "STOPPED")
_TIMEOUT_S = 10
_SCANCEL_TIMEOUT_S = 60


@dataclass(frozen=True)
class SlurmJob:
    """A job that `coterie submit` or the script of a job has submitted."""

    job_id: int

    folder: Path
    """Of its script and its logs."""

    state: str | None = None
    """As SLURM spells it, such as RUNNING; None: SLURM is not at hand, or does not know the job any more."""

    reason: str = ""
    """Why it waits, such as Priority."""

    nodes: str = ""
    """Where it is at work."""

    user: str = ""
    """Whose it is."""

    @property
    def submitted(self) -> float:
        """When its script was written, in seconds since the epoch."""
        script = self.folder / SCRIPT
        return script.stat().st_mtime if script.is_file() else 0.0

    @property
    def log(self) -> Path:
        """What the job prints; there from its start on."""
        return self.folder / f"slurm-{self.job_id}.out"

    @property
    def is_waiting(self) -> bool:
        """Whether it is in the queue."""
        return self.state in WAITING

    @property
    def is_at_work(self) -> bool:
        """Whether it has nodes."""
        return self.state in AT_WORK

    @property
    def attempts(self) -> list[Path]:
        """A folder for each time that it was started, oldest first."""
        folders = self.folder.glob(f"job-{self.job_id}.*")
        return sorted(folders, key=lambda path: int(path.suffix[1:]))


def read_jobs(run_dir: RunDir) -> list[SlurmJob]:
    """All jobs of a run, oldest first, as far as the run directory tells."""
    jobs = []
    for folder in sorted((run_dir.root / "logs").glob("submit-*")):
        noted = folder / JOBS
        numbers = (
            set(re.findall(r"^\d+", noted.read_text(), re.MULTILINE)) if noted.exists() else ()
        )
        # a script that somebody has handed to sbatch is noted nowhere before it starts
        started = {path.stem.removeprefix("job-") for path in folder.glob("job-*.*[0-9]")}
        jobs += [SlurmJob(number, folder) for number in sorted(map(int, {*numbers, *started}))]
    return jobs


def ask_slurm(jobs: Sequence[SlurmJob]) -> list[SlurmJob]:
    """The same jobs with their states, from squeue, then from sacct; never an error where they cannot tell."""
    if not jobs:
        return []
    found = _squeue(jobs)
    if missing := [job for job in jobs if job.job_id not in found]:
        found |= _sacct(missing)
    return [found.get(job.job_id, job) for job in jobs]


def scancel(job: SlurmJob) -> None:
    """End a job.

    Raises:
        JobError: SLURM refuses, or does not answer.
    """
    command = ["scancel", str(job.job_id)]
    result = tell_slurm(command, " ".join(command), _SCANCEL_TIMEOUT_S, "try again later")
    if result.returncode:
        said = " ".join(result.stderr.split())
        raise JobError(f"scancel {job.job_id}: {said}; run it yourself on a login node")


def _squeue(jobs: Sequence[SlurmJob]) -> dict[int, SlurmJob]:
    """A job of ours is known by its script: numbers begin anew when a site sets its SLURM up again."""
    lines = _lines(
        "squeue", "--states=all", "--noheader", _numbers(jobs), "--format=%A|%T|%u|%N|%r|%o"
    )
    said = dict(line.split("|", 1) for line in lines)
    found = {}
    for job in jobs:
        state, user, nodes, reason, command = said.get(str(job.job_id), "||||").split("|", 4)
        if command == str(job.folder / SCRIPT):
            reason = "" if reason == "None" else reason
            found[job.job_id] = replace(job, state=state, reason=reason, nodes=nodes, user=user)
    return found


def _sacct(jobs: Sequence[SlurmJob]) -> dict[int, SlurmJob]:
    user = f"--user={os.getuid()}"  # a number need not have a name here
    fields = "--format=JobIDRaw,State,NodeList"
    lines = _lines("sacct", "-X", "--noheader", "--parsable2", user, _numbers(jobs), fields)
    said = dict(line.split("|", 1) for line in lines)
    found = {}
    for job in jobs:
        if words := said.get(str(job.job_id)):
            state, nodes = words.split("|")
            # CANCELLED by 1000
            found[job.job_id] = replace(job, state=state.split()[0], nodes=nodes)
    return found


def _numbers(jobs: Sequence[SlurmJob]) -> str:
    return f"--jobs={','.join(str(job.job_id) for job in jobs)}"


def _lines(command: str, *arguments: str) -> list[str]:
    """What a command of SLURM prints; nothing where it is not there, fails or does not answer."""
    if not shutil.which(command):
        return []
    try:
        result = subprocess.run(
            [command, *arguments], capture_output=True, text=True, check=False, timeout=_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return []
    return [line for line in result.stdout.splitlines() if "|" in line]
