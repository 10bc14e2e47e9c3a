"""Ranks that are asked to stop save at the same step, and what they do afterwards is as if nobody had asked."""

import pytest

from launcher.run_dir import read_lines
from tests.distributed import rank_programs
from tests.distributed.run_ranks import run_ranks
from trainer.checkpoint import latest_checkpoint
from trainer.metrics import FILE

pytestmark = pytest.mark.slow


def test_one_rank_asks_and_all_stop_and_go_on_at_the_very_step(workshop, tmp_path):
    at_steps = {"asked": [7, 13, 22], "not-asked": []}
    jobs = {name: workshop.job(name, zero_stage=1) for name in at_steps}
    stopped = run_ranks(
        rank_programs.train_stopped,
        2,
        tmp_path,
        jobs=[job.model_dump_json() for job in jobs.values()],
        at_steps=list(at_steps.values()),
    )
    # Asked before step s + 1, they learn it after step s + 2.
    assert stopped == [[[step + 2 for step in steps] for steps in at_steps.values()]] * 2
    losses, weights = [], []
    for job in jobs.values():
        lines = read_lines(job.metrics_folder / FILE)
        assert [line["step"] for line in lines] == list(range(1, 25))
        losses.append([line["train/loss"] for line in lines])
        weights.append(latest_checkpoint(job.checkpoints_folder, "of-the-test").weights_hash)
    assert losses[0] == losses[1]
    assert weights[0] == weights[1]
    assert "stopped at Position(round=0, step_in_round=9, step=9)" in (
        (jobs["asked"].log_folder / "rank-0.log").read_text()
    )


def test_ranks_that_see_different_files_between_rounds_stop_together(workshop, tmp_path):
    job = workshop.job("between")
    program = rank_programs.train_while_one_sees_no_schedule
    stopped = run_ranks(program, 2, tmp_path / "between", job=job.model_dump_json())
    assert stopped == [[1, 0]] * 2
