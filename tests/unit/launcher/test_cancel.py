"""Stopping what is at work: real processes that stand for a run, and stand-ins for the commands of SLURM."""

import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import psutil
import pytest

from launcher import cancel as cancelling
from launcher.cancel import cancel
from launcher.cli import main
from launcher.ownership import describe_self
from launcher.run_dir import RunDir
from launcher.slurm import JOBS, SCRIPT
from selection.artifacts import write_json
from selection.errors import ConfigError, JobError

PROGRAM = """
import signal, sys, time
signal.signal(signal.SIGTERM, {on_term})
signal.signal(signal.SIGINT, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture
def own(tmp_path):
    """Start a process that owns the run directory, and ends or does not when it gets TERM."""
    processes = []

    def own(on_term="lambda *_: sys.exit(75)", **fields):
        program = PROGRAM.format(on_term=on_term)
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
        processes.append(process)
        assert process.stdout
        process.stdout.readline()
        started = str(psutil.Process(process.pid).create_time())
        owner = {**describe_self(), "pid": str(process.pid), "started": started, "token": "t"}
        write_json(RunDir(tmp_path).owner, {**owner, **fields})
        return process

    yield own
    for process in processes:
        process.kill()
        process.wait()


def test_a_process_is_asked_to_stop(own, tmp_path, capsys):
    process = own()
    assert main(["cancel", str(tmp_path)]) == 0
    assert f"process {process.pid}: has stopped" in capsys.readouterr().out
    assert process.wait(0) == 75
    assert main(["cancel", str(tmp_path)]) == 2
    assert "nothing to cancel, it is" in capsys.readouterr().err


def test_one_that_does_not_stop(own, tmp_path, monkeypatch):
    process = own(on_term="signal.SIG_IGN")
    monkeypatch.setattr(cancelling, "_SAVE_S", 0.5)
    monkeypatch.setattr(cancelling, "_END_S", 0.5)
    with pytest.raises(
        JobError, match=r"was asked to stop, and has not within 0.5 s.*--now ends it"
    ):
        cancel(tmp_path)
    cancel(tmp_path, at_once=True)
    assert process.wait(5) < 0


def test_a_number_that_is_somebody_elses_now_is_left_alone(own, tmp_path):
    process = own(started="1.0")
    with pytest.raises(ConfigError, match="nothing to cancel"):
        cancel(tmp_path, at_once=True)
    time.sleep(0.2)
    assert process.poll() is None


def test_another_machine(own, tmp_path):
    process = own(host="elsewhere", job="")
    with pytest.raises(ConfigError, match=r"is at work on elsewhere, .*run `coterie cancel` there"):
        cancel(tmp_path)
    own(host="elsewhere", job="77")
    with pytest.raises(ConfigError, match="at work in job 77; `scancel 77`"):
        cancel(tmp_path)
    assert process.poll() is None


def slurm(folder, monkeypatch, line):
    """Commands that say `line` of every job, and write down whom they end."""
    programs = {
        "squeue": f"cat <<'end'\n{line}\nend",
        "scancel": f'echo "$@" >> {folder}/cancelled',
    }
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_a_job_whose_nodes_are_made_ready_again_reads_no_stop_file(tmp_path, monkeypatch):
    folder = tmp_path / "run" / "logs" / "submit-001"
    (folder / "job-7.0").mkdir(parents=True)  # of the start before
    slurm(tmp_path, monkeypatch, f"7|CONFIGURING|me|n1|None|{folder / SCRIPT}")
    assert cancel(tmp_path / "run") == ["job 7: was CONFIGURING, cancelled"]
    assert (tmp_path / "cancelled").read_text() == "7\n"
    assert not list(folder.rglob("stop"))


@pytest.mark.parametrize("is_ours", [True, False])
def test_only_a_job_with_our_script_is_ended(tmp_path, monkeypatch, is_ours):
    folder = tmp_path / "run" / "logs" / "submit-001"
    folder.mkdir(parents=True)
    (folder / JOBS).write_text("7\n")
    script = folder / SCRIPT if is_ours else "/home/other/job.sh"
    slurm(tmp_path, monkeypatch, f"7|PENDING|me||Priority|{script}")
    if is_ours:
        assert cancel(tmp_path / "run") == ["job 7: was PENDING, cancelled"]
        assert (tmp_path / "cancelled").read_text() == "7\n"
    else:
        with pytest.raises(ConfigError, match="SLURM tells nothing of job 7"):
            cancel(tmp_path / "run")
        assert not (tmp_path / "cancelled").exists()


def test_a_job_that_has_just_come_back_is_asked_in_its_new_folder(tmp_path, monkeypatch):
    """RUNNING comes before the script runs, which makes it."""
    folder = tmp_path / "run" / "logs" / "submit-001"
    (folder / "job-7.0").mkdir(parents=True)
    slurm(tmp_path, monkeypatch, f"7|RUNNING|me|n1|None|{folder / SCRIPT}")
    monkeypatch.setattr(cancelling, "_ASK_SLURM_S", 0.05)
    asked = []

    def ask_slurm(jobs):
        (folder / "job-7.1").mkdir(exist_ok=True)
        asked.append(1)
        return [replace(job, state="RUNNING" if len(asked) < 3 else "COMPLETED") for job in jobs]

    monkeypatch.setattr(cancelling, "ask_slurm", ask_slurm)
    assert "has saved and stopped" in cancel(tmp_path / "run")[0]
    assert (folder / "job-7.1" / "stop").exists()


def test_a_process_that_has_ended_meanwhile(tmp_path):
    seen = SimpleNamespace(dir=RunDir(tmp_path))
    assert "had ended before" in cancelling._cancel_process(seen, at_once=False, save_s=1)
