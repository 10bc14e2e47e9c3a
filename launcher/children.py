"""Child processes that end with the code that started them, and take their own children along."""

import ctypes
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path

import psutil

_STOP_S = 4.0
"""Two children in turn, and a little more, take less than SLURM's KillWait: 30 s as shipped, 20 s in our tests."""
_PR_SET_CHILD_SUBREAPER = 36  # of linux/prctl.h


@contextmanager
def started(
    command: list[str], environ: Mapping[str, str], stop_signal: int, output: Path | None = None
) -> Iterator[subprocess.Popen]:
    """A child that ends with the body, by `stop_signal` if it can.

    It has a process group of its own, and neither it nor its children mind USR1, which srun hands to all processes; the
    run does when it is ready for it.
    """
    with output.open("ab") if output else nullcontext() as file:
        child = subprocess.Popen(
            command,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            process_group=0,
            preexec_fn=partial(signal.signal, signal.SIGUSR1, signal.SIG_IGN),
        )
    try:
        yield child
    finally:
        if child.poll() is None:
            child.send_signal(stop_signal)
        try:
            child.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


@contextmanager
def leaving_no_process() -> Iterator[None]:
    """Kill what is left of our children's children; Ray ends its workers, but not when it is killed itself.

    Linux makes orphans the children of the nearest process that asks for them.
    """
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        left = psutil.Process().children(recursive=True)
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=_STOP_S)
