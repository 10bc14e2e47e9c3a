"""Signals that ask a run to stop so that it can go on later: USR1 and TERM, from SLURM, Kubernetes or `kill`.

Outside of training, the run stops at once: every shard and every artifact is finished or not there. While the ranks
train, they save at the next step and stop. Signals may come at any moment and more than once; those after the first
one are not minded, so that a run that is on its way out is not cut off.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

EXIT_STOPPED = 75
"""EX_TEMPFAIL of sysexits.h: try again later, as the SLURM script does."""

_SIGNALS = (signal.SIGUSR1, signal.SIGTERM)
_A_MOMENT_S = 0.05


class Stopped(KeyboardInterrupt):
    """The run was asked to stop; like Ctrl-C, nothing in between may take it for an error."""


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise `Stopped` in the body when a signal comes; libraries that set handlers need `keeping_handlers` in there.

    Raises:
        Stopped: a signal came.
    """
    asked = False

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        _mind_no_more()
        raise Stopped

    try:
        with _handling(stop), _asking_again(stop):
            yield
    except KeyboardInterrupt:  # what becomes of it inside a call to Ray
        if asked:
            raise Stopped from None
        raise


@contextmanager
def _asking_again(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Signal once more when a `Stopped` was dropped, as Python does where nobody could catch it.

    That is in `__del__`, and in the callbacks of weak references that every import has.
    """
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if not isinstance(unraisable.exc_value, Stopped):
            before(unraisable)
            return
        signal.signal(signal.SIGUSR1, handler)
        # not at once, or it would be raised and dropped in here
        again = threading.Timer(_A_MOMENT_S, ask_again)
        again.daemon = True
        again.start()

    def ask_again() -> None:
        if signal.getsignal(signal.SIGUSR1) is handler:  # or else the body has ended meanwhile
            os.kill(os.getpid(), signal.SIGUSR1)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


@contextmanager
def stopping_ranks(file: Path) -> Iterator[None]:
    """Make `file` when a signal comes, by which `trainer.stopping` asks the ranks to save and stop."""
    with _handling(lambda _number, _frame: file.touch()):
        yield


def stop_now() -> NoReturn:
    """Raise `Stopped` for signals that came while ranks trained; others that follow are not minded."""
    if threading.current_thread() is threading.main_thread():
        _mind_no_more()
    raise Stopped


@contextmanager
def keeping_handlers() -> Iterator[None]:
    """Put the handlers of TERM and Ctrl-C back in place that were there before: Ray sets its own, and leaves them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    ended_by = None
    try:
        yield
    except SystemExit as error:  # what Ray's handler makes of TERM
        ended_by = error.code
        raise
    finally:
        for number, handler in before.items():
            if handler is not None:  # one that is not Python's
                signal.signal(number, handler)
        if ended_by == signal.SIGTERM:
            os.kill(os.getpid(), signal.SIGTERM)  # ours has not seen it


def _mind_no_more() -> None:
    for number in _SIGNALS:  # for good: more may come on the way out
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def not_to_be_stopped() -> Iterator[None]:
    """Mind no signal in the body, which is short: a Ray that is left half-way ends the process with status 1."""
    with _handling(signal.SIG_IGN):
        yield


@contextmanager
def _handling(
    handler: Callable[[int, FrameType | None], None] | signal.Handlers,
) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    before = {number: signal.signal(number, handler) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, old in before.items():
            if signal.getsignal(number) is handler:
                signal.signal(number, old)
