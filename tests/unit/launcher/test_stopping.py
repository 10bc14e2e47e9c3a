import os
import signal
import subprocess
import sys
import time

import pytest

from launcher.stopping import (
    EXIT_STOPPED,
    Stopped,
    keeping_handlers,
    not_to_be_stopped,
    stop_now,
    stoppable,
    stopping_ranks,
)

SIGNALS = [signal.SIGUSR1, signal.SIGTERM]
PROGRAM = """
import importlib, sys, time
from launcher import cli
module, function, *arguments = sys.argv[1:]
work = lambda *_: (print("at work", flush=True), time.sleep(30))
setattr(importlib.import_module(module), function, work)
sys.exit(cli.main(arguments))
"""
RUN = ["launcher.execute", "execute", "run", "configs/quickstart.yaml"]
STUDY = [
    *("launcher.studies.trials.study", "run_study"),
    *("study", "selectors", "configs/studies/known_code.yaml"),
]


@pytest.mark.parametrize("number", SIGNALS)
def test_outside_of_training_it_stops_at_once_and_further_signals_change_nothing(number):
    before = [signal.getsignal(each) for each in SIGNALS]
    try:
        with pytest.raises(Stopped), stoppable():
            os.kill(os.getpid(), number)
            time.sleep(5)
        for each in SIGNALS:
            os.kill(os.getpid(), each)
    finally:
        for each, handler in zip(SIGNALS, before, strict=True):
            signal.signal(each, handler)


def test_ray_makes_an_ordinary_interrupt_of_it():
    before = [signal.getsignal(each) for each in SIGNALS]
    try:
        with pytest.raises(Stopped), stoppable():
            try:
                os.kill(os.getpid(), signal.SIGUSR1)
                time.sleep(5)
            except Stopped:
                raise KeyboardInterrupt from None
        with pytest.raises(KeyboardInterrupt) as error, stoppable():
            raise KeyboardInterrupt
        assert not isinstance(error.value, Stopped)
    finally:
        for each, handler in zip(SIGNALS, before, strict=True):
            signal.signal(each, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_python_may_drop_it_once_but_not_for_good(number):
    """Nothing that is raised in `__del__` gets out of it; the same goes for a moment of every import."""

    class Dying:
        def __del__(self):
            os.kill(os.getpid(), number)
            time.sleep(0)

    before = [signal.getsignal(each) for each in SIGNALS]
    own_hook = sys.unraisablehook
    try:
        with pytest.raises(Stopped), stoppable():
            dying = Dying()
            del dying
            time.sleep(5)
            pytest.fail("it was dropped")
        assert sys.unraisablehook is own_hook
    finally:
        for each, handler in zip(SIGNALS, before, strict=True):
            signal.signal(each, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_while_the_ranks_train_they_are_asked_by_a_file(number, tmp_path):
    before = [signal.getsignal(each) for each in SIGNALS]
    with stoppable():
        with stopping_ranks(tmp_path / "stop"):
            assert not (tmp_path / "stop").exists()
            for _ in range(2):
                os.kill(os.getpid(), number)
            assert (tmp_path / "stop").exists()
        with stopping_ranks(tmp_path / "again"):
            pass
    assert not (tmp_path / "again").exists()
    assert [signal.getsignal(each) for each in SIGNALS] == before


@pytest.mark.parametrize("number", SIGNALS)
def test_on_the_way_out_nothing_is_cut_off(number, tmp_path):
    """SLURM's script asks again and again; Ray that is interrupted while it is left ends the process with status 1."""
    before = [signal.getsignal(each) for each in SIGNALS]
    left = []
    try:
        with pytest.raises(Stopped), stoppable():
            with stopping_ranks(tmp_path / "stop"):
                os.kill(os.getpid(), number)
            try:
                stop_now()
            finally:
                os.kill(os.getpid(), number)
                left.append("Ray")
        assert left == ["Ray"]
        with stoppable():
            with not_to_be_stopped():
                os.kill(os.getpid(), number)
            left.append("Ray again")
        assert left == ["Ray", "Ray again"]
    finally:
        for each, handler in zip(SIGNALS, before, strict=True):
            signal.signal(each, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_handler_that_ray_leaves_behind_goes_with_it(number):
    before = signal.getsignal(number)
    with keeping_handlers():
        signal.signal(number, signal.SIG_IGN)
    assert signal.getsignal(number) is before


def test_a_signal_that_ray_takes_while_it_starts_stops_the_run():
    def end(number, _frame):
        sys.exit(number)

    before = [signal.getsignal(each) for each in SIGNALS]
    try:
        with pytest.raises(Stopped), stoppable(), keeping_handlers():
            signal.signal(signal.SIGTERM, end)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
    finally:
        for each, handler in zip(SIGNALS, before, strict=True):
            signal.signal(each, handler)


@pytest.mark.parametrize(
    ("command", "number"),
    [(RUN, signal.SIGUSR1), (RUN, signal.SIGTERM), (STUDY, signal.SIGTERM)],
    ids=["run-USR1", "run-TERM", "study-TERM"],
)
def test_the_command_says_so_and_has_a_status_of_its_own(command, number):
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "at work\n"
    for _ in range(3):
        process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == EXIT_STOPPED
    assert errors == "coterie: stopped on request; the same command goes on from there\n"
