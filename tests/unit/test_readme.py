import re
import shlex
from pathlib import Path

import numpy as np

from launcher.cli import main
from selection.schedule import open_schedule
from tests.conftest import planted_pairs
from tests.readme import README, example_with, python_examples


def test_every_example_is_run():
    # the one for sentence-transformers in tests/integration/test_sentence_transformers.py
    assert len(python_examples()) == 3


def test_a_plain_data_loader():
    U, V, _ = planted_pairs(num_clusters=20, per_cluster=10, dim=8)
    batches = []
    names = {
        "model": None,
        "dataset": range(200),
        "embed": lambda model, dataset: (U, V),
        "train_step": lambda model, batch: batches.append(batch.tolist()),
    }
    exec(example_with("train_step"), names)
    assert [len(batch) for batch in batches] == [64] * 9
    for epoch in range(3):
        ids = np.concatenate(batches[3 * epoch : 3 * epoch + 3])
        assert len(np.unique(ids)) == 192
    assert sorted(batches[6:]) == sorted(names["chosen"].batches.tolist())
    assert names["chosen"].fields["round"] == 2


def test_from_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    U, V, _ = planted_pairs(num_clusters=20, per_cluster=10, dim=8)
    for name, rows in {"U": U, "V": V, "U1": V, "V1": U}.items():
        np.save(f"{name}.npy", rows)
    commands = re.findall(r"^    coterie (select .*)$", README.read_text(), re.MULTILINE)
    assert [main(shlex.split(command)) for command in commands] == [0, 0]
    assert open_schedule(Path("batches-1")).manifest["round"] == 1
    names = {}
    exec(example_with("open_schedule"), names)
    assert {len(batch) for batch in names["sampler"]} == {64}
