import json
import os
import signal
import subprocess
import sys
import time

import pytest

from launcher.cli import main
from launcher.logs import show_logs
from launcher.run_dir import RunDir

EVENT = {"stage": "cluster", "done": 1200, "total": 4000, "unit": "pairs", "time": 1.0}


@pytest.fixture
def run(tmp_path):
    """Two attempts of two ranks, the first of which failed; and a job."""
    run_dir = RunDir(tmp_path / "run")
    for attempt in (1, 2):
        folder = run_dir.new_attempt()
        for rank in (0, 1):
            text = "".join(f"attempt {attempt} rank {rank} line {n}\n" for n in range(50))
            (folder / f"rank-{rank}.log").write_text(text)
    end = {"outcome": "failed", "error": "no more disk", "time": 1.0}
    (run_dir.root / "logs" / "attempt-001" / "end.json").write_text(json.dumps(end))
    (folder / "select.jsonl").write_text(json.dumps(EVENT) + "\n")
    submit = run_dir.root / "logs" / "submit-001"
    (submit / "job-7.0").mkdir(parents=True)
    (submit / "slurm-7.out").write_text("what SLURM says\n")
    return run_dir.root


def shown(capsys, *arguments):
    assert main(["logs", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_the_error_comes_first_then_the_newest_attempt(run, capsys):
    text = shown(capsys, run, "-n", 2)
    assert text.startswith("last error: attempt 1: no more disk\n")
    assert "what SLURM says" in text
    assert "attempt 2 rank 1 line 48\nattempt 2 rank 1 line 49\n" in text
    assert "line 47" not in text
    assert "attempt 1 rank" not in text
    assert "cluster: 1,200 of 4,000 pairs" in text
    assert text.count("==> ") == 4


@pytest.fixture
def job_error(run):
    """The newest job failed after all attempts; its script was written then."""
    submit = run / "logs" / "submit-001"
    (submit / "slurm-7.out").write_text("coterie: slurm.setup: no such module\n")
    later_s = time.time() + 60
    (submit / "job.sbatch").touch()
    os.utime(submit / "job.sbatch", (later_s, later_s))


@pytest.mark.usefixtures("job_error")
def test_a_job_in_which_the_run_has_not_begun_went_wrong_last(run, capsys):
    assert shown(capsys, run).startswith("last error: slurm.setup: no such module\n")


@pytest.mark.usefixtures("job_error")
def test_an_attempt_has_no_error_of_a_job(run, capsys):
    assert shown(capsys, run, "--attempt", 1).startswith("last error: attempt 1: no more disk\n")
    end = {"outcome": "finished", "error": None, "time": 1.0}
    (run / "logs" / "attempt-002" / "end.json").write_text(json.dumps(end))
    assert "last error" not in shown(capsys, run, "--attempt", 2)


def test_half_a_line_of_progress_is_shown_when_it_is_whole(run, capsys):
    path = run / "logs/attempt-002/select.jsonl"
    text = json.dumps(EVENT)
    path.write_text(text + "\n" + text[:20])
    logs = show_logs(run, None, None, 5)
    assert capsys.readouterr().out.count("cluster: 1,200") == 1
    path.write_text(text + "\n" + text + "\n")
    logs.show_more()
    assert capsys.readouterr().out.count("cluster: 1,200") == 1


def test_the_end_of_a_large_log(run, capsys):
    path = run / "logs/attempt-002/rank-0.log"
    path.write_text("".join(f"line {n}\n" for n in range(200_000)))
    assert "line 199998\nline 199999\n" in shown(capsys, run, "--rank", 0, "-n", 2)


def test_one_rank_of_one_attempt(run, capsys):
    text = shown(capsys, run, "--attempt", 1, "--rank", 1, "-n", 1)
    assert text.splitlines()[-2:] == [
        f"==> {run}/logs/attempt-001/rank-1.log <==",
        "attempt 1 rank 1 line 49",
    ]


def test_the_list(run, capsys):
    text = shown(capsys, run, "--list")
    assert "failed: no more disk" in text
    assert text.count("rank-") == 4
    assert "slurm-7.out" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--attempt", "3"], "attempts 1 to 2"), (["--rank", "9"], "no log of rank 9")],
)
def test_what_is_not_there(run, capsys, arguments, message):
    assert main(["logs", str(run), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_no_run(tmp_path, capsys):
    assert main(["logs", str(tmp_path)]) == 2
    assert "no run has begun there" in capsys.readouterr().err


def test_following_a_log_and_an_attempt_that_is_yet_to_come(run):
    process = subprocess.Popen(
        [sys.executable, "-m", "launcher.cli", "logs", str(run), "--rank", "0", "-n", "1", "-f"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        assert process.stdout
        lines = iter(process.stdout.readline, "")
        assert "attempt 2 rank 0 line 49\n" in lines
        with (run / "logs" / "attempt-002" / "rank-0.log").open("a") as file:
            file.write("one more\n")
        assert "one more\n" in lines
        (RunDir(run).new_attempt() / "rank-0.log").write_text("a new attempt\n")
        assert "a new attempt\n" in lines
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert process.stderr
        assert process.stderr.read() == ""
    finally:
        process.kill()
        process.wait()


def test_a_reader_that_has_enough_is_no_error(run):
    log = run / "logs" / "attempt-002" / "rank-0.log"
    log.write_text("a line\n" * 200_000)  # more than a pipe holds
    program = [sys.executable, "-m", "launcher.cli", "logs", str(run), "-n", "200000"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1
