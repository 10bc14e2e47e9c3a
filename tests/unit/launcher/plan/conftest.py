import io
import tarfile

import pytest
import yaml

from launcher.config import load_config


@pytest.fixture
def write_shard():
    """Writes a shard of `num_pairs` pairs with a .txt and a .py part of `num_bytes` each."""

    def write(path, num_pairs, num_bytes=100, parts=("txt", "py")):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w") as tar:
            for number in range(num_pairs):
                for part in parts:
                    member = tarfile.TarInfo(f"{number:06d}.{part}")
                    member.size = num_bytes
                    tar.addfile(member, io.BytesIO(bytes(num_bytes)))
        return path

    return write


@pytest.fixture
def make_config(tmp_path):
    """A configuration whose shards lie, or do not lie, in the folder of the test."""

    def make(*overrides, **values):
        data = {
            "train": f"{tmp_path}/train-{{000..009}}.tar",
            "heldout": f"{tmp_path}/heldout-*.tar",
        }
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump({"run_dir": f"{tmp_path}/run", "data": data, **values}))
        return load_config(path, overrides)

    return make
