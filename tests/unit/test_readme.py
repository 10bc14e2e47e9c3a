import re
import shlex

import numpy as np

from launcher.cli import main
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
    np.save("U.npy", U)
    np.save("V.npy", V)
    (command,) = re.findall(r"^    coterie (select .*)$", README.read_text(), re.MULTILINE)
    assert main(shlex.split(command)) == 0
    names = {}
    exec(example_with("open_schedule"), names)
    assert {len(batch) for batch in names["sampler"]} == {64}
