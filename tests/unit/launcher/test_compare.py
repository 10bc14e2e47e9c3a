import json

import numpy as np
import pytest

from launcher.compare import comparison, summarize, to_text
from launcher.config import load_config
from launcher.run_dir import RunDir, append_line
from selection.errors import ConfigError
from selection.schedule import schedule_folder, write_schedule

STAGES = [
    {"stage": "train", "round": 0, "seconds": 3.0, "time": 3.0},
    {"stage": "train", "round": 0, "seconds": 4.0, "time": 7.0},
    {"stage": "embed", "round": 1, "seconds": 0.5, "time": 7.5},
    {"stage": "select", "round": 1, "seconds": 1.5, "time": 9.0},
]
METRICS = ("recall_at_1", "recall_at_5", "recall_at_10", "mrr")


@pytest.fixture
def finished(tmp_path):
    def make(name, strategy, mrr, losses):
        path = tmp_path / f"{name}.yaml"
        path.write_text(f"run_dir: {tmp_path}/{name}\ndata: {{train: t, heldout: h}}\n")
        config = load_config(path, [f"selection.strategy={strategy}"])
        run_dir = RunDir(config.run_dir)
        run_dir.keep(config)
        for number, fields in enumerate(losses):
            folder = schedule_folder(run_dir.schedules, number)
            ids = np.arange(4).reshape(2, 2)
            write_schedule(
                folder,
                ids,
                np.empty(0, int),
                {"strategy": strategy, "round": number, "seed": 0, **fields},
            )
            values = {f"{d}/{m}": mrr + number for d in ("u_to_v", "v_to_u") for m in METRICS}
            append_line(run_dir.results, {"round": number, "step": 10 * (number + 1), **values})
        run_dir.stages.parent.mkdir(exist_ok=True)
        run_dir.stages.write_text("".join(json.dumps(stage) + "\n" for stage in STAGES))
        return run_dir.root

    return make


def test_summary_adds_up_what_was_written(finished):
    chosen = {"batch_loss": 3.0, "random_batch_loss": 2.0, "alarms": ["collapsed"]}
    summary = summarize(finished("a", "spectral", 0.25, [{}, chosen, chosen]))
    assert summary.hardness == (3.0, 2.0)
    assert summary.selection_s == 2.0
    assert summary.learning_s == 9.0
    assert summary.num_steps == 30
    assert summary.alarms == [(1, "collapsed"), (2, "collapsed")]
    assert [r["u_to_v/mrr"] for r in summary.rounds] == [0.25, 1.25, 2.25]


def test_table_has_a_column_per_run(finished):
    roots = [
        finished("a", "random", 0.1, [{}]),
        finished("b", "spectral", 0.2, [{}, {"batch_loss": 3.0, "random_batch_loss": 2.0}]),
    ]
    rows = comparison([summarize(root) for root in roots])
    assert {len(row) for row in rows} == {3}
    table = {row[0]: row[1:] for row in rows}
    assert table["MRR u -> v"] == ["0.1000", "1.2000"]
    assert table["MRR u -> v after round 1"] == ["", "1.2000"]
    assert table["loss of its batches / of random ones"] == ["1 (random)", "3.000 / 2.000 = 1.50"]
    assert table["alarms"] == ["0", "0"]
    lines = to_text(rows).splitlines()
    assert len({len(line) for line in lines}) == 1


def test_a_run_without_a_finished_round(tmp_path, finished):
    with pytest.raises(ConfigError, match="no round is finished"):
        summarize(finished("a", "random", 0.1, []))
