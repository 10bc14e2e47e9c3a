import numpy as np
import pytest
import webdataset as wds

from launcher import preparing
from launcher.config import RunConfig
from launcher.preparing import keep_data, prepare
from launcher.run_dir import RunDir
from launcher.run_state import Run
from selection.artifacts import write_json
from selection.errors import ConfigError
from selection.shards import expand_shards
from trainer.claim import Claim


def write_shard(path, texts):
    with wds.TarWriter(str(path), mtime=0) as writer:
        for number, text in enumerate(texts):
            writer.write({"__key__": f"{number:03d}", "txt": text, "py": text})


@pytest.fixture
def prepare_again(tmp_path, monkeypatch):
    write_json(tmp_path / ".owner.json", {"token": "of the test"})
    monkeypatch.setattr(preparing, "prepare_encoder", lambda *_: None)
    for split in ("train", "heldout"):
        write_shard(tmp_path / f"{split}-0.tar", [f"{split} {number}" for number in range(10)])
    config = RunConfig.model_validate(
        {
            "run_dir": tmp_path / "run",
            "data": {split: f"{tmp_path}/{split}-*.tar" for split in ("train", "heldout")},
            "train": {"batch_size": 4},
        }
    )

    def again():
        run_dir = RunDir(config.run_dir)
        run = Run(
            config, run_dir, tmp_path, Claim(file=tmp_path / ".owner.json", token="of the test")
        )
        shards = {split: expand_shards(pattern) for split, pattern in config.data.splits()}
        prepare(run, shards, num_workers=1)
        keep_data(run)
        return run

    return again


def test_the_same_data_is_prepared_again(prepare_again, tmp_path):
    one = np.array([3])
    before = prepare_again().indexes["train"].read(one)
    write_shard(tmp_path / "train-0.tar", [f"train {number}" for number in range(10)])  # as before
    assert prepare_again().indexes["train"].read(one) == before


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_a_run_does_not_go_on_with_other_data(prepare_again, tmp_path, split):
    prepare_again()
    write_shard(tmp_path / f"{split}-1.tar", ["one more"])
    with pytest.raises(ConfigError, match=rf"data\.{split}: its shards are not those that .*run"):
        prepare_again()
    (tmp_path / f"{split}-1.tar").unlink()
    prepare_again()
