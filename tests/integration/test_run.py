"""The whole loop with every real part: tar shards, Ray, FAISS, spectral clustering, two DeepSpeed ranks."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from launcher.config import load_config
from launcher.plan.estimate import plan_run
from launcher.record import read_record
from launcher.report.page import write_report
from launcher.run_dir import read_lines
from launcher.stopping import EXIT_STOPPED
from selection.examples import KINDS
from selection.schedule import open_schedule
from selection.shards import ShardIndex
from tests.tiny_run import (
    NUM_BATCHES,
    NUM_TRAIN,
    STEPS_PER_ROUND,
    TOTAL_STEPS,
    command,
    complete,
    coterie,
    losses,
    wait_for_step,
)
from trainer.checkpoint import complete_checkpoints, load_weights

pytestmark = pytest.mark.ray


def test_schedules(finished):
    run_dir, _ = finished
    first, second = (open_schedule(run_dir / "schedules" / f"round-0000{r}") for r in range(2))
    assert (first.manifest["strategy"], second.manifest["strategy"]) == ("random", "spectral")
    assert first.num_batches == second.num_batches == NUM_BATCHES
    age = NUM_BATCHES // 2  # collected over the last epoch
    assert second.manifest["embedding_step"] == STEPS_PER_ROUND - age
    assert second.manifest["staleness_steps"] == age
    assert second.manifest["batch_loss"] > second.manifest["random_batch_loss"]
    assert second.manifest["changed_pairs"] > 0.5  # those of round 0 were random
    assert len(first.leftover) == NUM_TRAIN % 8
    assert set(first.leftover.tolist()) <= set(np.asarray(second.batches).ravel().tolist())


def test_every_logged_step_once_and_learning(finished):
    run_dir, _ = finished
    lines = read_lines(run_dir / "metrics" / "train.jsonl")
    steps = [line["step"] for line in lines]
    assert steps == sorted(set(steps))
    assert steps[-1] == TOTAL_STEPS
    assert lines[-1]["train/temperature"] > 0


def test_judged_after_every_round(finished):
    run_dir, _ = finished
    results = read_lines(run_dir / "metrics" / "rounds.jsonl")
    assert [(r["round"], r["step"]) for r in results] == [(0, STEPS_PER_ROUND), (1, TOTAL_STEPS)]
    assert results[-1]["u_to_v/mrr"] > 2 / 60  # better than chance, which is about ln(60) / 60


def test_a_plan_foretold_its_bytes(finished, tiny_overrides):
    """Within 20 %, before anything of the run is there."""
    run_dir, _ = finished
    config = load_config(Path("configs/quickstart.yaml"), [*tiny_overrides, f"run_dir={run_dir}"])
    plan = plan_run(config)

    def found(path):
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())

    index, checkpoints = run_dir / "index" / "train", complete_checkpoints(run_dir / "checkpoints")
    weights, _ = load_weights(checkpoints[-1])
    assert plan.sizes.num_parameters == sum(map(torch.numel, weights.values()))
    assert plan.splits[0].num_pairs == pytest.approx(len(ShardIndex.open(index)), rel=0.02)
    kept = config.train.keep_checkpoints + 1
    for planned, there in (
        (plan.disk.index_bytes, found(run_dir / "index")),
        (plan.disk.schedules_bytes, found(run_dir / "schedules")),
        (plan.disk.checkpoints_bytes / kept, found(checkpoints[-1])),
        (plan.disk.embeddings_bytes, found(run_dir / "embeddings")),
    ):
        assert planned == pytest.approx(there, rel=0.2)
    assert plan.num_steps == TOTAL_STEPS


def test_a_report_shows_what_was_put_together(finished, tmp_path):
    run_dir, _ = finished
    record = read_record(run_dir)
    assert [example["kind"] for example in record.examples[1]] == list(KINDS)
    assert record.versions["torch"] == torch.__version__
    assert record.is_finished
    write_report([run_dir], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "Leading eigenvalues of the normalised affinity" in page
    ids = record.examples[1][0]["confusions"][0]["ids"]
    for sample in ShardIndex.open(run_dir / "index" / "train").read(np.array(ids)):
        assert sample["py"].decode() in page


def test_the_screen_shows_work_and_no_chatter(finished):
    _, result = finished
    text = result.stdout + result.stderr
    for stage in ("index", "tokenizer", "gather", "neighbors", "cluster", "embed heldout"):
        assert stage in result.stderr
    assert "held-out retrieval" in result.stdout
    assert (
        f"round 0  {NUM_BATCHES} batches of 8, {NUM_TRAIN % 8} left over, by random"
        in result.stdout
    )
    assert "batch changed for" in result.stdout
    assert result.stdout.count("  loss ") == len(losses(finished[0]))
    for noise in ("Traceback", "Warning", "raylet", "DeepSpeed", "(pid="):
        assert noise not in text


def test_the_folder_explains_itself(finished):
    run_dir, _ = finished
    readme = (run_dir / "README.md").read_text()
    assert "MRR u -> v" in readme
    assert f"{json.loads((run_dir / 'encoder' / 'manifest.json').read_text())['kind']}" == "encoder"
    assert (run_dir / "logs" / "latest" / "rank-1.log").stat().st_size > 0


@pytest.mark.slow
def test_ranks_that_end_after_every_round_and_embeddings_of_no_age(
    finished, tiny_overrides, tmp_path
):
    """The first round is the same, however the second one is selected."""
    more = ["selection.refresh.keep_ranks=false", "selection.refresh.embeddings=computed"]
    result = complete(tmp_path / "run", [*tiny_overrides, *more])
    assert "embed train" in result.stderr
    second = open_schedule(tmp_path / "run" / "schedules" / "round-00001").manifest
    assert second["embedding_step"] == STEPS_PER_ROUND
    assert second["staleness_steps"] == 0
    first, expected = losses(tmp_path / "run"), losses(finished[0])
    assert first.keys() == expected.keys()
    assert all(first[step] == expected[step] for step in first if step <= STEPS_PER_ROUND)


def test_a_second_call_has_nothing_to_do(finished, tiny_overrides):
    run_dir, _ = finished
    start = time.perf_counter()
    result = subprocess.run(
        command(run_dir, tiny_overrides), capture_output=True, text=True, check=True, timeout=60
    )
    assert "all 2 rounds were finished before" in result.stdout
    assert time.perf_counter() - start < 20


def test_search(finished):
    run_dir, _ = finished
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "launcher.cli",
            "search",
            str(run_dir),
            "lobex mifin",
            "kahup",
            "--top",
            "2",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.count("m.py:") == 4
    assert '"lobex mifin"' in result.stdout


def test_a_changed_configuration_is_refused(finished, tiny_overrides):
    run_dir, _ = finished
    result = subprocess.run(
        command(run_dir, [*tiny_overrides, "seed=9"]), capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert "run of another configuration (seed: 0 -> 9)" in result.stderr


def test_status_and_logs_of_a_finished_run(finished):
    run_dir, _ = finished
    (standing,) = json.loads(coterie("status", "--json", run_dir).stdout)
    assert (standing["state"], standing["step"], standing["error"]) == (
        "finished",
        TOTAL_STEPS,
        None,
    )
    assert "logs/attempt-001/rank-1.log" in coterie("logs", run_dir).stdout
    assert coterie("cancel", run_dir).returncode == 2


def begin(run_dir, overrides):
    """Start a run that goes on from what is there; what it says is in `screen.txt` beside it."""
    with (run_dir.parent / "screen.txt").open("w") as file:
        return subprocess.Popen(
            command(run_dir, overrides),
            stdout=file,
            stderr=file,
            # a test runner in the background may ignore Ctrl-C, and its children inherit that
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )


@pytest.mark.slow
def test_stopped_three_times_inside_a_round_it_goes_on_and_ends_the_same(
    finished, tiny_overrides, tmp_path
):
    """Cancelled, told Ctrl-C and killed in round 1, the run ends with the batches and losses of one that was not."""
    run_dir = tmp_path / "stopped"
    process = begin(run_dir, tiny_overrides)
    wait_for_step(run_dir, STEPS_PER_ROUND + 10, process)
    (standing,) = json.loads(coterie("status", "--json", run_dir).stdout)
    assert (standing["state"], standing["round"], standing["stage"]["name"]) == (
        "running",
        1,
        "train",
    )
    assert standing["total_steps"] == TOTAL_STEPS
    result = coterie("cancel", run_dir)
    assert (result.returncode, process.wait(30)) == (0, EXIT_STOPPED), result.stderr
    last = max(losses(run_dir))
    assert STEPS_PER_ROUND < last < TOTAL_STEPS
    assert json.loads(coterie("status", "--json", run_dir).stdout)[0]["state"] == "stopped"

    for signal_number, status in ((signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)):
        process = begin(run_dir, tiny_overrides)
        wait_for_step(run_dir, max(losses(run_dir)) + 30, process)
        os.kill(process.pid, signal_number)
        assert process.wait(60) == status, (tmp_path / "screen.txt").read_text()[-3000:]
        assert max(losses(run_dir)) < TOTAL_STEPS
        if signal_number == signal.SIGINT:
            assert f"going on from step {last}\n" in (tmp_path / "screen.txt").read_text()

    result = complete(run_dir, tiny_overrides)
    assert "going on from step" in result.stdout
    assert losses(run_dir) == losses(finished[0])
    for number in range(2):
        hashes = {
            open_schedule(folder / "schedules" / f"round-0000{number}").content_hash
            for folder in (run_dir, finished[0])
        }
        assert len(hashes) == 1
