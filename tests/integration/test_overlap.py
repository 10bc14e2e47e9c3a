"""Selection beside training, for real: a whole run, one that is stopped meanwhile, and one whose selection fails."""

import json
import signal
import subprocess

import numpy as np
import psutil
import pytest

from launcher.run_dir import read_lines
from launcher.stopping import EXIT_STOPPED
from selection.artifacts import has_manifest
from selection.schedule import open_schedule, schedule_folder
from tests.tiny_run import (
    DEADLINE_S,
    NUM_BATCHES,
    command,
    complete,
    coterie,
    losses,
    wait_for,
)
from trainer.checkpoint import complete_checkpoints

pytestmark = [pytest.mark.ray, pytest.mark.slow]

EPOCHS_PER_ROUND = 24  # more than twice as long as it takes to select
FIRST_SAVE = 100
STEPS_PER_ROUND = EPOCHS_PER_ROUND * NUM_BATCHES
TOTAL_STEPS = STEPS_PER_ROUND + 50


@pytest.fixture(scope="module")
def overrides(tiny_overrides):
    return [
        *tiny_overrides,
        "selection.refresh.mode=overlap",
        "selection.refresh.embeddings=computed",
        f"selection.refresh.epochs_per_round={EPOCHS_PER_ROUND}",
        f"train.num_steps={TOTAL_STEPS}",
        f"train.checkpoint_every_steps={FIRST_SAVE}",
        "train.log_every_steps=5",  # stopped between two lines, a run has one more
        "train.keep_checkpoints=1",
        "ray.num_cpus=4",  # two for the ranks, whatever this machine has
    ]


@pytest.fixture(scope="module")
def finished(overrides, tmp_path_factory):
    """A run from start to end, and what it printed."""
    run_dir = tmp_path_factory.mktemp("runs") / "overlap"
    return run_dir, complete(run_dir, overrides)


def metrics(run_dir):
    return read_lines(run_dir / "metrics" / "train.jsonl")


def stage(run_dir, name, round_number):
    """When a stage began and ended, by the clock of the metrics."""
    (line,) = (
        line
        for line in read_lines(run_dir / "metrics" / "stages.jsonl")
        if (line["stage"], line["round"]) == (name, round_number)
    )
    return line["time"] - line["seconds"], line["time"]


def test_the_next_schedule_is_selected_while_the_ranks_train(finished):
    run_dir, _ = finished
    times = {line["step"]: line["time"] for line in metrics(run_dir)}
    began, _ = stage(run_dir, "embed", 1)
    _, ended = stage(run_dir, "select", 1)
    assert times[FIRST_SAVE] < began < ended < times[STEPS_PER_ROUND]
    during = [step for step, at in times.items() if began < at < ended]
    assert len(during) > 10  # and the ranks did not stand still


def test_the_manifest_says_how_old_the_embeddings_are(finished):
    run_dir, _ = finished
    second = open_schedule(schedule_folder(run_dir / "schedules", 1))
    assert second.manifest["strategy"] == "spectral"
    assert second.manifest["embedding_step"] == FIRST_SAVE
    assert second.manifest["staleness_steps"] == STEPS_PER_ROUND - FIRST_SAVE
    assert second.manifest["batch_loss"] > second.manifest["random_batch_loss"]


def test_every_step_is_taken_once_and_every_round_judged(finished):
    run_dir, _ = finished
    lines = metrics(run_dir)
    steps = [line["step"] for line in lines]
    assert steps == sorted(set(steps))
    assert set(steps) >= set(range(5, TOTAL_STEPS + 1, 5))
    assert {line["round"] for line in lines if line["step"] > STEPS_PER_ROUND} == {1}
    results = read_lines(run_dir / "metrics" / "rounds.jsonl")
    assert [(r["round"], r["step"]) for r in results] == [(0, STEPS_PER_ROUND), (1, TOTAL_STEPS)]


def test_the_screen_shows_both(finished):
    run_dir, result = finished
    assert result.stdout.count("  loss ") == len(losses(run_dir))
    for line in result.stdout.splitlines():
        assert line.count("  loss ") <= 1  # none is torn
    for name in ("train:", "embed train:", "cluster:"):
        assert name in result.stderr
    assert "Traceback" not in result.stdout + result.stderr


@pytest.fixture
def running(overrides, tmp_path):
    """Starts a run, and ends it if a test does not."""
    processes = []

    def start(*more):
        screen = tmp_path / "screen.txt"
        with screen.open("w") as file:
            process = subprocess.Popen(
                command(tmp_path / "run", [*overrides, *more]),
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        processes.append(process)
        return tmp_path / "run", process, screen

    yield start
    for process in processes:
        process.kill()
        process.wait()


def test_stopped_while_it_selects_it_goes_on_with_the_same_steps(finished, overrides, running):
    """The ranks save and stop, no process is left, and the schedule is that of the run which was not stopped."""
    run_dir, process, screen = running()
    wait_for(lambda: has_manifest(run_dir / "embeddings" / "round-00000" / "train"), process)
    (standing,) = json.loads(coterie("status", "--json", run_dir).stdout)
    assert (standing["stage"]["name"], standing["stage"]["beside"]["name"]) == ("train", "select")
    below = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == EXIT_STOPPED, screen.read_text()[-3000:]
    _, alive = psutil.wait_procs(below, timeout=20)
    assert not alive
    schedule = schedule_folder(run_dir / "schedules", 1)
    assert not schedule.exists()
    last = max(losses(run_dir))
    assert FIRST_SAVE < last < STEPS_PER_ROUND
    assert f"step-{last:08d}" in [p.name for p in complete_checkpoints(run_dir / "checkpoints")]

    result = complete(run_dir, overrides)
    assert f"going on from step {last}\n" in result.stdout
    undisturbed = losses(finished[0])
    later = {step: loss for step, loss in undisturbed.items() if step > last + 5}
    assert {step: losses(run_dir)[step] for step in later} == later
    other = schedule_folder(finished[0] / "schedules", 1)
    assert open_schedule(schedule).content_hash == open_schedule(other).content_hash
    ages = [open_schedule(folder).manifest["staleness_steps"] for folder in (schedule, other)]
    assert ages[0] == ages[1]


def test_an_error_in_selection_ends_the_run_with_its_message(running):
    """All pairs are taken for false negatives of each other, so no batch can be formed."""
    run_dir, process, screen = running(
        "selection.graph.num_neighbors=320", "selection.hardness.margin=2"
    )
    assert process.wait(DEADLINE_S) == 2
    (message,) = (line for line in screen.read_text().splitlines() if line.startswith("coterie:"))
    assert "duplicates or false negatives of each other" in message
    assert (run_dir / "logs" / "latest" / "stop").exists()
    last = max(losses(run_dir))
    assert FIRST_SAVE < last < STEPS_PER_ROUND
    assert complete_checkpoints(run_dir / "checkpoints")[-1].name == f"step-{last:08d}"
    assert "stopped at" in (run_dir / "logs" / "latest" / "rank-1.log").read_text()
    (standing,) = json.loads(coterie("status", "--json", run_dir).stdout)
    assert (standing["state"], standing["error"][1]) == (
        "failed",
        message.removeprefix("coterie: "),
    )


def test_embeddings_that_the_first_epoch_computed(overrides, finished, tmp_path):
    run_dir = tmp_path / "run"
    complete(run_dir, [*overrides, "selection.refresh.embeddings=collected"])
    second = open_schedule(schedule_folder(run_dir / "schedules", 1)).manifest
    assert second["embedding_step"] == NUM_BATCHES - NUM_BATCHES // 2
    assert second["staleness_steps"] == STEPS_PER_ROUND - second["embedding_step"]
    times = {line["step"]: line["time"] for line in metrics(run_dir)}
    assert stage(run_dir, "select", 1)[1] < times[STEPS_PER_ROUND]
    first, expected = losses(run_dir), losses(finished[0])
    shared = [step for step in first.keys() & expected.keys() if step <= STEPS_PER_ROUND]
    # a line is the mean since the line before, and this run has one more at its first save
    same = [step for step in shared if not NUM_BATCHES < step < NUM_BATCHES + 5]
    assert [first[step] for step in same] == [expected[step] for step in same]
    assert np.isfinite(list(first.values())).all()


def test_a_cluster_without_room_for_both_is_refused(overrides, tmp_path):
    result = subprocess.run(
        command(tmp_path / "run", [*overrides, "ray.num_cpus=2"]),
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
    )
    assert result.returncode == 2
    assert "selection.refresh.mode: is overlap, but with 1 CPUs of one node" in result.stderr
