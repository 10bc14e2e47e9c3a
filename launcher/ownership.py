"""One attempt of a run at a time, on all nodes.

A file lock is the first door; on many a cluster it holds on one machine only. So an attempt also puts its name into an
owner file and touches it every few seconds. Who finds another one's name there
- on this machine, with the lock in hand, takes over: the other is dead;
- of an older attempt of the same SLURM job, takes over: SLURM runs one at a time, so the other is an orphan and stops
  before it writes again, see `trainer/claim.py`;
- otherwise watches the file, and takes over only when it is not touched. No clocks are compared.
"""

import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from selection.artifacts import write_json
from selection.errors import ConfigError
from trainer.claim import Claim, read_owner

TOUCH_EVERY_S = 5.0
_WATCH_S = 6 * TOUCH_EVERY_S  # file systems show others' changes late
_SAME_START_S = 1.0  # the system's clock, by which processes start, may be set in between


def describe_self() -> dict[str, str]:
    """What an owner file says of this process."""
    name = f"process {os.getpid()} on {socket.gethostname()}"
    if job := os.environ.get("SLURM_JOB_ID"):
        name = f"job {job}, attempt {_restart()}, {name}"
    process = psutil.Process()
    return {
        "name": name,
        "host": socket.gethostname(),
        "job": job or "",
        "restart": _restart(),
        "pid": str(process.pid),
        "started": str(process.create_time()),
    }


def find_process(owner: dict[str, str]) -> psutil.Process | None:
    """The process of an owner on this machine; None where it has ended, or its number is somebody else's now."""
    if owner.get("host") != socket.gethostname():
        return None
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(int(owner["pid"]))
        is_same = abs(process.create_time() - float(owner["started"])) < _SAME_START_S
        if is_same and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


def is_orphan(owner: dict[str, str]) -> bool:
    """Whether the owner is an older attempt of the SLURM job that this process belongs to.

    Two runs that somebody starts within one attempt, as in an interactive job, are not.
    """
    is_same_job = bool(owner) and owner["job"] == os.environ.get("SLURM_JOB_ID")
    return is_same_job and int(owner.get("restart") or 0) < int(_restart())


def _restart() -> str:
    return os.environ.get("SLURM_RESTART_COUNT") or "0"


@contextmanager
def owning(file: Path) -> Iterator[Claim]:
    """Own a run directory while the body runs.

    Args:
        file: its owner file.

    Raises:
        ConfigError: another attempt is at work.
    """
    _wait_for_owner(file)
    claim = Claim(file=file, token=uuid.uuid4().hex)
    write_json(file, {**describe_self(), "token": claim.token})
    stop = threading.Event()
    thread = threading.Thread(target=_keep_touching, args=(claim, stop), daemon=True)
    thread.start()
    try:
        yield claim
    finally:
        stop.set()
        thread.join()
        if read_owner(file).get("token") == claim.token:
            file.unlink()


def _wait_for_owner(file: Path) -> None:
    owner = read_owner(file)
    if not owner or owner["host"] == socket.gethostname() or is_orphan(owner):
        return
    last = _touched(file)
    give_up_s = time.monotonic() + _WATCH_S
    while time.monotonic() < give_up_s:
        time.sleep(TOUCH_EVERY_S / 5)
        touched = _touched(file)
        if touched is None:
            return  # it has ended meanwhile
        if touched != last:
            raise ConfigError(
                f"run_dir: {file.parent} is in use by {owner['name']}; wait for it, or choose another folder"
            )


def _touched(file: Path) -> int | None:
    """When it was touched last, in nanoseconds; None where it is not there."""
    try:
        return file.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def _keep_touching(claim: Claim, stop: threading.Event) -> None:
    while not stop.wait(TOUCH_EVERY_S):
        with suppress(OSError):  # a shared file system that does not answer now answers later
            if read_owner(claim.file).get("token") == claim.token:
                os.utime(claim.file)
