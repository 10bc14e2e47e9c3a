import json
from pathlib import Path

import numpy as np
import pytest

from launcher.record import distinct_names, read_record, with_unfinished
from launcher.run_dir import RunDir
from selection.errors import ConfigError
from tests.unit.launcher.report.run_folder import (
    CHOSEN,
    GAP_S,
    STAGES_S,
    START,
    write_data,
    write_run,
)
from trainer.metrics import FILE


@pytest.fixture
def make_run(tmp_path):
    data = write_data(tmp_path / "data" / "train")
    return lambda **settings: write_run(tmp_path / "run", data, **settings)


def test_reads_what_a_finished_run_wrote(make_run):
    record = read_record(make_run(alarms=("collapsed",)))
    assert (record.name, record.strategy, record.is_finished) == ("run", "spectral", True)
    assert record.num_steps == 8
    assert record.hardness == (3.0, 2.0)
    assert record.alarms == [(1, "collapsed")]
    assert record.seconds == {"train": 20, "judge": 8, "embed": 2, "select": 3}
    assert (record.selection_s, record.learning_s) == (5, 25)
    assert list(record.examples) == [1]
    assert record.versions["torch"] == "2.13.0"


@pytest.mark.parametrize(
    ("settings", "age"),
    [
        ({"chosen": CHOSEN | {"staleness_steps": 0}}, 2),
        ({"chosen": CHOSEN | {"staleness_steps": 3}}, 5),
        ({"num_finished": 1}, None),
        ({"strategy": "random"}, None),
    ],
)
def test_the_age_of_embeddings_grows_while_their_batches_are_trained(make_run, settings, age):
    """Four steps, from embeddings of no age, or of three steps before."""
    assert read_record(make_run(**settings)).embedding_age == age


def test_training_under_way_counts_up_to_its_last_line(make_run):
    record = read_record(make_run(num_finished=0))
    assert not record.is_finished
    assert (record.rounds, record.stages, record.seconds) == ([], [], {})  # nothing to count from

    record = read_record(make_run(num_finished=1))
    assert [stage["stage"] for stage in record.stages][-1] == "train"
    assert record.seconds["train"] == STAGES_S["train"] + GAP_S + 4


def test_a_killed_attempt_counts_between_two_stages():
    stages = [
        {"stage": "index", "round": 0, "seconds": 1.0, "time": 10.0},
        {"stage": "index", "round": 0, "seconds": 1.0, "time": 100.0},
    ]
    lines = [{"step": step, "round": 0, "time": time} for step, time in ((1, 12.0), (2, 15.0))]
    assert with_unfinished(stages, lines)[1] == {
        "stage": "train",
        "round": 0,
        "seconds": 5.0,
        "time": 15.0,
    }
    assert with_unfinished(stages, []) == stages


def test_seconds_of_learning_stand_still_while_a_round_is_judged(make_run):
    record = read_record(make_run())
    train_s, judge_s = STAGES_S["train"], STAGES_S["judge"]
    train_end = START + train_s
    judge_end = train_end + GAP_S + judge_s
    embed_end = judge_end + GAP_S + STAGES_S["embed"]
    times = np.array([START, START + 4, train_end, judge_end, embed_end, embed_end + 1e6])
    found = record.learning_seconds_at(times)
    assert found.tolist() == [0, 4, train_s, train_s, train_s + 2, record.learning_s]
    assert (np.diff(record.learning_seconds_at(np.linspace(START, START + 60, 500))) >= 0).all()


def test_what_overlaps_training_counts_once(make_run):
    overlap = {"selection.refresh.mode": "overlap"}
    root = make_run(num_finished=1, **overlap)
    run_dir = RunDir(root)

    ends = [("embed", 2.0, 5), ("select", 8.0, 13), ("train", 10.0, 10)]
    lines = [
        json.dumps({"stage": stage, "round": 1, "seconds": seconds, "time": START + end})
        for stage, seconds, end in ends
    ]
    run_dir.stages.write_text("\n".join(lines) + "\n")
    run_dir.training.unlink()
    record = read_record(root)
    assert record.learning_s == 13
    assert record.selection_s == 10
    times = START + np.array([0.0, 3, 6, 10, 12, 13, 99])
    assert record.learning_seconds_at(times).tolist() == [0, 3, 6, 10, 12, 13, 13]


def test_training_under_way_has_begun_before_what_overlaps_it():
    stages = [
        {"stage": "encoder", "round": 0, "seconds": 1.0, "time": 10.0},
        {"stage": "embed", "round": 1, "seconds": 2.0, "time": 14.0},
    ]
    lines = [{"step": step, "round": 0, "time": 10.0 + step} for step in range(1, 9)]
    *known, added = with_unfinished(stages, lines, beside=("embed", "select", "judge"))
    assert known == stages
    assert added == {"stage": "train", "round": 0, "seconds": 8.0, "time": 18.0}


def test_what_is_no_run(tmp_path):
    with pytest.raises(ConfigError, match="no run"):
        read_record(tmp_path)


def test_the_metrics_of_training_are_where_the_trainer_writes_them(tmp_path):
    run_dir = RunDir(tmp_path)
    assert run_dir.training == run_dir.metrics / FILE


def test_names_are_as_long_as_it_takes():
    roots = [Path("/x/a/run"), Path("/x/b/run")]
    assert distinct_names(roots) == ["a/run", "b/run"]
    assert distinct_names(roots[:1]) == ["run"]
    assert distinct_names([roots[0], roots[0]]) == ["run", "run"]
