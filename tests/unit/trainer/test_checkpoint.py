"""The parts of checkpoints that need no ranks; `tests/distributed` saves and loads real ones."""

import pytest
import torch

from selection.artifacts import write_manifest
from selection.errors import ArtifactError
from trainer.checkpoint import (
    WEIGHTS,
    Position,
    checkpoint_folder,
    complete_checkpoints,
    latest_checkpoint,
    load,
    load_weights,
    prune,
)


def make_checkpoint(folder, step, config_hash="mine", complete=True):
    target = checkpoint_folder(folder, step)
    target.mkdir(parents=True)
    torch.save({"logit_scale": torch.tensor([float(step)])}, target / WEIGHTS)
    fields = {
        "round": 1,
        "step_in_round": 2,
        "step": step,
        "config_hash": config_hash,
        "schedule_hash": "of-round-1",
        "temperature": 0.07,
        "world_size": 2,
        "zero_stage": 1,
    }
    if complete:
        write_manifest(target, "checkpoint", [WEIGHTS], fields)
    return target


def test_there_may_be_none(tmp_path):
    assert latest_checkpoint(tmp_path / "checkpoints", "mine") is None
    make_checkpoint(tmp_path, 5, complete=False)
    assert latest_checkpoint(tmp_path, "mine") is None


def test_the_newest_complete_one_is_found(tmp_path):
    for step in (9, 100, 20):
        make_checkpoint(tmp_path, step)
    make_checkpoint(tmp_path, 200, complete=False)
    found = latest_checkpoint(tmp_path, "mine")
    assert found.folder.name == "step-00000100"
    assert found.position == Position(round=1, step_in_round=2, step=100)
    assert found.schedule_hash == "of-round-1"


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path):
    make_checkpoint(tmp_path, 5, config_hash="theirs")
    with pytest.raises(ArtifactError, match="configuration theirs, expected mine"):
        latest_checkpoint(tmp_path, "mine")


@pytest.mark.parametrize("damage", ["truncate", "alter", "remove"])
def test_damaged_weights_are_refused(tmp_path, damage):
    path = make_checkpoint(tmp_path, 5) / WEIGHTS
    content = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(content[:-9] if damage == "truncate" else content[:-1] + b"!")
    for read in (lambda: latest_checkpoint(tmp_path, "mine"), lambda: load_weights(path.parent)):
        with pytest.raises(ArtifactError, match=r"model\.pt"):
            read()


def test_weights_are_read_without_unpickling(tmp_path):
    target = make_checkpoint(tmp_path, 5, complete=False)

    class Harmful:
        def __reduce__(self):
            return (open, (str(tmp_path / "harmed"), "w"))

    torch.save({"logit_scale": Harmful()}, target / WEIGHTS)
    write_manifest(target, "checkpoint", [WEIGHTS], {"config_hash": "mine"})
    with pytest.raises(Exception, match="weights_only"):
        load_weights(target)
    assert not (tmp_path / "harmed").exists()


def test_pruning_keeps_the_newest_and_removes_leftovers(tmp_path):
    for step in (1, 2, 3, 10):
        make_checkpoint(tmp_path, step)
    make_checkpoint(tmp_path, 4, complete=False)
    make_checkpoint(tmp_path, 11, complete=False)
    (tmp_path / "zero_to_fp32.py").write_text("")
    prune(tmp_path, keep=2)
    assert [path.name for path in complete_checkpoints(tmp_path)] == [
        "step-00000003",
        "step-00000010",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-00000003",
        "step-00000010",
        "zero_to_fp32.py",
    ]


def test_pruning_keeps_what_others_read(tmp_path):
    for step in (1, 2, 3, 10):
        make_checkpoint(tmp_path, step)
    make_checkpoint(tmp_path, 4, complete=False)
    prune(tmp_path, keep=1, needed_steps=(2, 4, 7))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000010"]


def test_positions_advance():
    position = Position(round=2, step_in_round=5, step=25)
    assert position.next() == Position(2, 6, 26)
    assert position.next().next_round() == Position(3, 0, 26)


class StubEngine:
    def __init__(self, fields):
        self.fields = fields

    def load_checkpoint(self, folder, tag):
        return f"{folder}/{tag}", self.fields


def test_files_of_another_step_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    make_checkpoint(tmp_path, 5)
    checkpoint = latest_checkpoint(tmp_path, "mine")
    load(StubEngine({"step": 5}), checkpoint)
    for fields in (None, {"step": 4}):
        with pytest.raises(ArtifactError, match="not of step 5"):
            load(StubEngine(fields), checkpoint)
