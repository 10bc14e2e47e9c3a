"""`coterie cancel`: stop a run wherever it is at work, so that it can go on later.

A job of SLURM is asked by the stop file of its newest start, see `slurm/job.sbatch.j2`: it saves, ends and, unlike
after USR1 before a time limit, does not come back. A process of this machine is asked by TERM.
"""

import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from launcher.ownership import find_process
from launcher.run_dir import RunDir
from launcher.slurm_jobs import SlurmJob, ask_slurm, scancel
from launcher.status.reading import Observation, observe
from launcher.status.standing import decide_state
from selection.errors import ConfigError, JobError
from trainer.claim import read_owner

_STOP_FILE = "stop"  # as slurm/job.sbatch.j2 calls it
_SAVE_S = 120.0
_END_S = 20.0
_POLL_S = 0.2
_ASK_SLURM_S = 2.0  # sites count how often somebody asks


def cancel(root: Path, at_once: bool = False) -> list[str]:
    """Stop a run, and wait until it has stopped.

    Args:
        root: its folder.
        at_once: without saving; it goes on from its last checkpoint.

    Returns:
        What was done, a line each.

    Raises:
        ConfigError: there is nothing to stop, or it is not within reach from here.
        JobError: SLURM refuses, or the run does not stop.
    """
    (seen,) = observe([root])
    active = [job for job in seen.jobs if job.is_waiting or job.is_at_work]
    save_s = max(_SAVE_S, seen.record.config.slurm.stop_before_end_s) if seen.record else _SAVE_S
    # those that wait first, or one of them starts when the one at work is over
    waiting_first = sorted(active, key=lambda job: job.is_at_work)
    done = [_cancel_job(job, at_once, save_s) for job in waiting_first]
    owner_job = seen.owner.job if seen.owner else ""
    if seen.owner and seen.owner.is_alive and owner_job not in {str(job.job_id) for job in active}:
        done.append(_cancel_process(seen, at_once, save_s))
    if not done:
        raise ConfigError(f"{root}: {_why_nothing(seen)}")
    return done


def _why_nothing(seen: Observation) -> str:
    state, why = decide_state(seen)
    if any(job.state is None for job in seen.jobs) and state != "finished":
        numbers = ", ".join(str(job.job_id) for job in seen.jobs if job.state is None)
        return (
            f"found nothing at work here, and SLURM tells nothing of job {numbers}; if it may be in the queue, "
            "try again on a login node"
        )
    return f"nothing to cancel, it is {state}{f' ({why})' if why else ''}"


def _cancel_job(job: SlurmJob, at_once: bool, save_s: float) -> str:
    # while nodes are made ready nobody looks for a stop file; a folder is that of the start before
    if at_once or job.is_waiting or job.state == "CONFIGURING" or not job.attempts:
        scancel(job)
        return f"job {job.job_id}: was {job.state}, cancelled"
    name = f"job {job.job_id}"
    _wait(lambda: _has_ended(job), save_s, name, _ASK_SLURM_S)
    return f"{name}: has saved and stopped; the same `coterie submit` goes on from there"


def _has_ended(job: SlurmJob) -> bool:
    """Whether a job is over, which is asked to stop again: RUNNING may come before the folder of a new start."""
    try:
        (job.attempts[-1] / _STOP_FILE).touch()
    except PermissionError:
        raise ConfigError(f"job {job.job_id}: belongs to {job.user}; ask them to stop it") from None
    return not ask_slurm([job])[0].is_at_work


def _cancel_process(seen: Observation, at_once: bool, save_s: float) -> str:
    owner = read_owner(seen.dir.owner)
    if not owner:
        return f"{seen.dir.root}: had ended before; the same command goes on from there"
    process = find_process(owner)
    if process is None:
        raise ConfigError(_out_of_reach(seen.dir, owner))
    name = f"process {process.pid}"
    try:
        return _end_process(process, owner, name, at_once, save_s)
    except psutil.NoSuchProcess:  # ended by itself meanwhile
        return f"{name}: had ended before; the same command goes on from there"


def _end_process(
    process: psutil.Process, owner: dict[str, str], name: str, at_once: bool, save_s: float
) -> str:
    try:
        process.send_signal(signal.SIGINT if at_once else signal.SIGTERM)
    except psutil.AccessDenied:
        raise ConfigError(f"{name}: belongs to {process.username()}; ask them to stop it") from None
    if not at_once:
        _wait(lambda: find_process(owner) is None, save_s, name)
        return f"{name}: has stopped; the same command goes on from there"
    try:
        _wait(lambda: find_process(owner) is None, _END_S, name)
    except JobError:  # one that was started to ignore Ctrl-C
        process.kill()
    return f"{name}: has ended; the same command goes on from the last checkpoint"


def _out_of_reach(run_dir: RunDir, owner: dict[str, str]) -> str:
    if job := owner.get("job"):
        return f"{run_dir.root}: is at work in job {job}; `scancel {job}` on a login node ends it"
    return (
        f"{run_dir.root}: is at work on {owner.get('host', 'another machine')}, which cannot be reached from here; "
        "run `coterie cancel` there"
    )


def _wait(
    condition: Callable[[], bool], timeout_s: float, name: str, poll_s: float = _POLL_S
) -> None:
    give_up_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > give_up_s:
            raise JobError(
                f"{name}: was asked to stop, and has not within {timeout_s:g} s; `coterie logs` shows what it does, "
                "--now ends it"
            )
        time.sleep(poll_s)
