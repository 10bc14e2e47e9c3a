import os
import threading
import time

import pytest

from launcher import ownership
from launcher.ownership import describe_self, is_orphan, owning
from selection.artifacts import write_json
from selection.errors import ConfigError, JobError
from trainer.claim import Claim, read_owner


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setattr(ownership, "TOUCH_EVERY_S", 0.05)
    monkeypatch.setattr(ownership, "_WATCH_S", 0.5)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    return tmp_path / ".owner.json"


def left_behind(file, **fields):
    write_json(file, {**describe_self(), "token": "of another", **fields})
    return Claim(file=file, token="of another")


def test_owned_while_the_body_runs(file):
    with owning(file) as claim:
        claim.check()
        assert read_owner(file)["name"].startswith(f"process {os.getpid()} on ")
    assert not file.exists()
    with pytest.raises(JobError, match=r"belongs to nobody now; this attempt stops"):
        claim.check()


def test_what_a_dead_process_of_this_machine_left_is_taken_over_at_once(file):
    other = left_behind(file)
    start = time.monotonic()
    with owning(file) as claim:
        claim.check()
        with pytest.raises(JobError, match=rf"belongs to process {os.getpid()} on"):
            other.check()
    assert time.monotonic() - start < 0.4


def test_another_machine_is_believed_when_it_touches_the_file(file):
    left_behind(file, host="elsewhere", name="process 1 on elsewhere")
    stop = threading.Event()

    def touch():
        while not stop.wait(0.1):
            os.utime(file)

    thread = threading.Thread(target=touch)
    thread.start()
    try:
        with pytest.raises(ConfigError, match="in use by process 1 on elsewhere"), owning(file):
            pass
    finally:
        stop.set()
        thread.join()
    with owning(file) as claim:  # it has fallen silent
        claim.check()


def test_an_owner_that_ends_while_it_is_watched_leaves_the_folder(file):
    left_behind(file, host="elsewhere")
    thread = threading.Timer(0.1, file.unlink)
    thread.start()
    start = time.monotonic()
    with owning(file) as claim:
        claim.check()
    assert time.monotonic() - start < 0.4
    thread.join()


def test_a_file_system_that_fails_once_does_not_end_the_touching(file, monkeypatch):
    real, answers = os.utime, iter([OSError(116, "Stale file handle")])

    def utime(path):
        if error := next(answers, None):
            raise error
        real(path)

    with owning(file):
        os.utime(file, ns=(0, 0))
        monkeypatch.setattr(ownership.os, "utime", utime)
        give_up_s = time.monotonic() + 5
        while file.stat().st_mtime_ns == 0 and time.monotonic() < give_up_s:
            time.sleep(0.01)
        assert file.stat().st_mtime_ns > 0


def test_an_orphan_of_the_same_job_loses_and_takes_nothing_back(file, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    with owning(file) as old:
        old_file = read_owner(file)
        write_json(file, {**old_file, "host": "elsewhere"})
        # As in an interactive job, another run of the same attempt.
        assert not is_orphan(read_owner(file))
        monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
        start = time.monotonic()
        with owning(file) as new:
            assert time.monotonic() - start < 0.4
            time.sleep(0.2)  # the orphan still lives, and wants to touch the file
            new.check()
            with pytest.raises(JobError, match="belongs to job 42, attempt 1"):
                old.check()
        write_json(file, {**old_file, "token": "of a third"})
    assert read_owner(file)["token"] == "of a third"  # the end of the orphan leaves it alone


def test_an_older_attempt_that_wakes_up_takes_nothing_from_the_newer_one(file, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with owning(file) as newer:
        write_json(file, {**read_owner(file), "host": "elsewhere"})
        monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
        assert not is_orphan(read_owner(file))
        with pytest.raises(ConfigError, match="in use by job 42, attempt 1"), owning(file):
            pass
        newer.check()
