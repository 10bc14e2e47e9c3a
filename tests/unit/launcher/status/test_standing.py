"""Run folders with known numbers, and what is said of them."""

import json
import os
import shutil
import subprocess
import sys
import time

import psutil
import pytest

from launcher.cli import main
from launcher.ownership import describe_self
from launcher.run_dir import RunDir
from launcher.slurm import CONFIG, JOBS, SCRIPT
from launcher.slurm_jobs import SlurmJob, read_jobs
from launcher.status.reading import observe
from launcher.status.standing import decide_state, find_standing, remaining_s, seconds_per_step
from launcher.status.text import to_lines, to_table
from selection.artifacts import write_json, write_manifest
from tests.unit.launcher.report.run_folder import BATCH_SIZE, STAGES_S


@pytest.fixture
def make_run(make_run):
    """The same, with the encoder's folder."""

    def make(name="run", **settings):
        root = make_run(name, **settings)
        write_manifest(RunDir(root).encoder, "encoder", [], {})
        return root

    return make


def standing(root):
    (seen,) = observe([root])
    return find_standing(seen)


def own(root, **fields):
    write_json(RunDir(root).owner, {**describe_self(), "token": "t", **fields})


def end(root, outcome, error=None, attempt=1):
    folder = root / "logs" / f"attempt-{attempt:03d}"
    write_json(folder / "end.json", {"outcome": outcome, "error": error, "time": time.time()})


def test_a_finished_run(make_run):
    found = standing(make_run(num_finished=2))
    assert (found.state, found.step, found.num_finished_rounds, found.round) == (
        "finished",
        8,
        2,
        None,
    )
    assert (found.stage, found.eta_s, found.error) == (None, None, None)
    text = to_lines(found)
    assert "MRR 0.5000, recall@10 0.5000 after round 1, step 8" in text
    assert "round       2 of 2 finished" in text


def test_a_run_at_work(make_run):
    root = make_run(num_finished=1)
    own(root)
    found = standing(root)
    assert (found.state, found.round, found.step, found.total_steps) == ("running", 1, 6, 8)
    assert found.stage.name == "train"
    assert found.steps_per_s == pytest.approx(0.5)  # a line every two seconds
    assert found.pairs_per_s == pytest.approx(0.5 * BATCH_SIZE)
    assert found.eta_s == pytest.approx(2 * 2 + STAGES_S["judge"])
    assert "alive, heard of 0 s ago" in to_lines(found)


def test_an_owner_that_is_gone(make_run):
    root = make_run(num_finished=1)
    process = subprocess.Popen([sys.executable, "-c", ""])
    started = str(psutil.Process(process.pid).create_time())
    process.wait()
    own(root, pid=str(process.pid), started=started)
    assert standing(root).state == "failed"
    own(root, started="1.0")  # its number is somebody else's now
    found = standing(root)
    assert found.state == "failed"
    assert "killed, or its machine went down" in to_lines(found)


def test_another_machine_is_believed_as_long_as_it_is_heard_of(make_run):
    root = make_run(num_finished=1)
    own(root, host="elsewhere", name="process 1 on elsewhere")
    assert standing(root).state == "running"
    long_ago = time.time() - 3600
    os.utime(RunDir(root).owner, (long_ago, long_ago))
    found = standing(root)
    assert found.state == "failed"
    assert round(found.owner.heard_s) == 3600


def test_stopped_and_failed(make_run):
    root = make_run(num_finished=1)
    end(root, "stopped")
    assert standing(root).state == "stopped"
    end(root, "failed", "data.train: gone; bring it back")
    found = standing(root)
    assert (found.state, found.error) == ("failed", (1, "data.train: gone; bring it back"))
    assert "last error  attempt 1: data.train: gone; bring it back" in to_lines(found)


def test_stages_follow_the_artifacts(make_run):
    root = make_run(num_finished=1)
    run_dir = RunDir(root)
    own(root)

    def stage():
        return standing(root).stage

    write_manifest(run_dir.checkpoints / "step-00000008", "checkpoint", [], {"round": 2})
    shutil.copytree(run_dir.index("train"), run_dir.index("heldout"))
    heldout = run_dir.embeddings("heldout", 1)
    heldout.mkdir(parents=True)
    (heldout / "shard-000000.npy").touch()
    assert (stage().name, stage().done, stage().total) == ("judge", 1, 1)
    shutil.rmtree(run_dir.schedules / "round-00001")
    assert (stage().name, stage().done, stage().total) == ("embed", 0, 1)
    write_manifest(run_dir.embeddings("train", 0), "embeddings", [], {})
    assert stage().name == "select"
    event = {"stage": "cluster", "done": 3, "total": 12, "unit": "pairs", "time": time.time() + 1}
    (root / "logs" / "attempt-001" / "select.jsonl").write_text(json.dumps(event) + "\n")
    assert "stage       select: cluster, 3 of 12 pairs" in to_lines(standing(root))
    shutil.rmtree(run_dir.encoder)
    assert stage().name == "encoder"


def test_all_that_is_judged_is_embedded_in_one_pass(make_run):
    root = make_run(num_finished=1, **{"data.distractors": "d"})
    run_dir = RunDir(root)
    own(root)
    write_manifest(run_dir.checkpoints / "step-00000008", "checkpoint", [], {"round": 2})
    for split, num_done in (("heldout", 1), ("distractors", 0)):
        shutil.copytree(run_dir.index("train"), run_dir.index(split))
        run_dir.embeddings(split, 1).mkdir(parents=True)
        for number in range(num_done):
            (run_dir.embeddings(split, 1) / f"shard-{number:06d}.npy").touch()
    assert "judge: embed heldout, 1 of 2 shards" in to_lines(standing(root))


def test_stages_beside_each_other(make_run):
    root = make_run(num_finished=0, **{"selection.refresh.mode": "overlap"})
    run_dir = RunDir(root)
    own(root)
    shutil.copytree(run_dir.index("train"), run_dir.index("heldout"))

    def stage():
        return next(line for line in to_lines(standing(root)).splitlines() if "stage " in line)[12:]

    shutil.move(run_dir.schedules / "round-00000", run_dir.schedules / "round-00001")
    assert stage() == "select"
    shutil.copytree(run_dir.schedules / "round-00001", run_dir.schedules / "round-00000")
    shutil.move(run_dir.schedules / "round-00001", root / "later")
    assert stage() == "train"
    run_dir.embeddings("train", 0).mkdir(parents=True)
    assert stage() == "train; beside it embed: embed train, 0 of 1 shards"
    assert "| train + embed train |" in to_table([standing(root)])
    write_manifest(run_dir.embeddings("train", 0), "embeddings", [], {})
    assert stage() == "train; beside it select"
    write_manifest(run_dir.checkpoints / "step-00000004", "checkpoint", [], {"round": 1})
    assert stage() == "select"  # the ranks wait for it
    shutil.move(root / "later", run_dir.schedules / "round-00001")
    assert stage() == "train; beside it judge: embed heldout, 0 of 1 shards"
    write_manifest(run_dir.checkpoints / "step-00000008", "checkpoint", [], {"round": 2})
    assert stage() == "judge: embed heldout, 0 of 1 shards"


def test_the_round_is_that_of_training_also_before_the_last_one_is_judged(make_run):
    root = make_run(num_finished=1, **{"selection.refresh.mode": "overlap"})
    RunDir(root).results.unlink()
    assert (standing(root).round, standing(root).num_finished_rounds) == (1, 0)


def submitted(root, *numbers):
    folder = RunDir(root).root / "logs" / "submit-001"
    folder.mkdir(parents=True)
    (folder / CONFIG).touch()
    (folder / JOBS).write_text("".join(f"{number}\n" for number in numbers))
    return folder


def test_jobs_are_those_noted_and_those_that_have_started(tmp_path):
    folder = submitted(tmp_path, 7, 12)
    for name in ("job-7.0", "job-7.1", "job-30.0"):
        (folder / name).mkdir()
    jobs = read_jobs(RunDir(tmp_path))
    assert [job.job_id for job in jobs] == [7, 12, 30]
    assert [path.name for path in jobs[0].attempts] == ["job-7.0", "job-7.1"]


@pytest.mark.parametrize(
    ("job_state", "state"),
    [
        ("PENDING", "queued"),
        ("RUNNING", "running"),
        ("COMPLETING", "running"),
        ("CANCELLED", "stopped"),
        ("FAILED", "failed"),
        ("NODE_FAIL", "failed"),
        (None, "not begun"),
    ],
)
def test_a_job_speaks_for_a_run_that_has_not_begun(tmp_path, monkeypatch, job_state, state):
    folder = submitted(tmp_path, 7)
    monkeypatch.setattr(
        "launcher.status.reading.ask_slurm",
        lambda jobs: [SlurmJob(7, folder, job_state)] if jobs else [],
    )
    (seen,) = observe([tmp_path])
    assert decide_state(seen)[0] == state
    assert "7" in to_lines(find_standing(seen))


def test_a_job_that_failed_before_the_run_went_on_in_it(make_run, monkeypatch):
    root = make_run(num_finished=1)
    end(root, "stopped")
    folder = submitted(root, 7)
    (folder / SCRIPT).touch()
    os.utime(folder / SCRIPT, (time.time() + 60, time.time() + 60))
    (folder / "slurm-7.out").write_text("coterie: slurm.setup: no such module; ask for another\n")
    monkeypatch.setattr(
        "launcher.status.reading.ask_slurm",
        lambda jobs: [SlurmJob(7, folder, "FAILED")] if jobs else [],
    )
    found = standing(root)
    assert (found.state, found.why) == ("failed", "job 7 is FAILED before the run began")
    assert found.error == (0, "slurm.setup: no such module; ask for another")
    assert "last error  slurm.setup: no such module" in to_lines(found)
    os.utime(folder / SCRIPT, (1, 1))  # the attempt is the newer one
    assert standing(root).state == "stopped"


@pytest.mark.parametrize(
    ("outcome", "state"), [("failed", "failed"), ("stopped", "running"), (None, "running")]
)
def test_a_job_whose_run_has_ended_in_it(make_run, monkeypatch, outcome, state):
    """After a stop the job goes back into the queue; after a failure it only cleans up."""
    root = make_run(num_finished=1)
    folder = submitted(root, 7)
    (folder / SCRIPT).touch()
    os.utime(folder / SCRIPT, (1, 1))  # submitted before the attempt began
    if outcome:
        end(root, outcome, "no more disk")
    monkeypatch.setattr(
        "launcher.status.reading.ask_slurm",
        lambda jobs: [SlurmJob(7, folder, "COMPLETING")] if jobs else [],
    )
    assert standing(root).state == state


@pytest.mark.parametrize(
    ("outcome", "said", "state"),
    [
        ("stopped", "", "stopped"),
        ("failed", "", "failed"),
        ("stopped", "coterie: slurm.setup: no such module\n", "failed"),
    ],
)
def test_a_newer_job_that_slurm_does_not_know(make_run, monkeypatch, outcome, said, state):
    root = make_run(num_finished=1)
    end(root, outcome)
    folder = submitted(root, 7)
    (folder / SCRIPT).touch()
    os.utime(folder / SCRIPT, (time.time() + 60, time.time() + 60))
    (folder / "slurm-7.out").write_text(said)
    monkeypatch.setenv("PATH", str(root))
    found = standing(root)
    assert (found.state, "job 7" in found.why) == (state, True)


def test_a_user_without_a_name(tmp_path, monkeypatch):
    """As in a container; sacct takes numbers."""
    submitted(tmp_path, 7)
    (tmp_path / "sacct").write_text(
        f'#!/bin/sh\necho "$@" > {tmp_path}/asked\necho "7|FAILED|n1"\n'
    )
    (tmp_path / "sacct").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)

    def nobody(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr("pwd.getpwuid", nobody)
    assert standing(tmp_path).state == "failed"
    assert f"--user={os.getuid()}" in (tmp_path / "asked").read_text()


def test_no_slurm_is_no_error(tmp_path, monkeypatch):
    submitted(tmp_path, 7)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert standing(tmp_path).state == "not begun"


def test_a_slurm_that_fails_is_no_error(tmp_path, monkeypatch):
    submitted(tmp_path, 7)
    for command in ("squeue", "sacct"):
        (tmp_path / command).write_text("#!/bin/sh\necho 'no controller | here' >&2\nexit 1\n")
        (tmp_path / command).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert standing(tmp_path).state == "not begun"


def test_a_table_of_several(make_run):
    roots = [make_run("first"), make_run("second", num_finished=1)]
    end(roots[1], "failed", "no more disk")
    table = to_table([find_standing(seen) for seen in observe(roots)]).splitlines()
    cells = [[cell.strip() for cell in line.split("|")] for line in table[2:4]]
    assert [row[1:4] for row in cells] == [
        ["first", "finished", "2 of 2"],
        ["second", "failed", "1 of 2"],
    ]
    assert table[-1] == "second: attempt 1: no more disk"


def test_restarts_do_not_count_as_slow_steps():
    lines = [{"step": step, "time": 10.0 * step} for step in range(1, 6)]
    lines += [{"step": step, "time": 5000 + 10.0 * step} for step in range(6, 10)]
    assert seconds_per_step(lines) == 10
    assert seconds_per_step(lines[:1]) is None


def test_what_is_left_shrinks_with_every_round(make_run):
    left = [
        remaining_s(observe([make_run(f"run{number}", num_finished=number)])[0].record, 0, 1.0)
        for number in range(3)
    ]
    assert left[2] == 0
    assert left[1] == STAGES_S["judge"]


def test_what_is_left_where_selection_overlaps_training(make_run):
    """Round 0 is trained, with its schedule alone; selecting takes 5 s and judging 4."""
    root = make_run(num_finished=2, **{"selection.refresh.mode": "overlap"})
    shutil.rmtree(RunDir(root).schedules / "round-00001")
    RunDir(root).results.unlink()
    (seen,) = observe([root])
    assert [remaining_s(seen.record, steps, 1.0) for steps in (0, 9, 20)] == [9 + 4, 9 + 4, 20 + 4]


def test_the_command(make_run, tmp_path, capsys):
    root = make_run()
    assert main(["status", "--json", str(root), str(root)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["state"] for each in found] == ["finished"] * 2
    assert main(["status", str(tmp_path)]) == 2
    assert "holds no config.yaml" in capsys.readouterr().err
