import json

import numpy as np
import pytest

from selection.artifacts import (
    atomic_file,
    atomic_folder,
    hash_json,
    read_manifest,
    write_array,
    write_manifest,
)
from selection.errors import ArtifactError


@pytest.fixture
def artifact(tmp_path):
    write_array(tmp_path / "a.npy", np.arange(10))
    write_manifest(tmp_path, "thing", ["a.npy"], {"round": 3})
    return tmp_path


def test_manifest_round_trip(artifact):
    manifest = read_manifest(artifact, "thing", {"round": 3})
    assert manifest["files"]["a.npy"]["bytes"] == (artifact / "a.npy").stat().st_size


@pytest.mark.parametrize(
    ("kind", "expected", "field"), [("other", {}, "kind"), ("thing", {"round": 4}, "round")]
)
def test_manifest_of_something_else(artifact, kind, expected, field):
    with pytest.raises(ArtifactError, match=f"{field} is .*, expected .*make it again"):
        read_manifest(artifact, kind, expected)


def test_truncated_file(artifact):
    (artifact / "a.npy").write_bytes(b"short")
    with pytest.raises(ArtifactError, match=r"a\.npy: found 5 bytes, expected"):
        read_manifest(artifact, "thing", hashes=False)


def test_altered_file_of_the_same_size(artifact):
    size = (artifact / "a.npy").stat().st_size
    (artifact / "a.npy").write_bytes(bytes(size))
    read_manifest(artifact, "thing", hashes=False)
    with pytest.raises(ArtifactError, match="found contents"):
        read_manifest(artifact, "thing")


def test_missing_file_and_missing_manifest(artifact, tmp_path_factory):
    (artifact / "a.npy").unlink()
    with pytest.raises(ArtifactError, match="found nothing"):
        read_manifest(artifact, "thing")
    with pytest.raises(ArtifactError, match="found no manifest"):
        read_manifest(tmp_path_factory.mktemp("empty"), "thing")


@pytest.mark.parametrize("text", ["[]", "{}", '{"kind": "thing", "format_version": 1}'])
def test_a_manifest_without_files(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ArtifactError, match="names no files; delete"):
        read_manifest(tmp_path, "thing")


def test_a_file_is_no_artifact(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="found no manifest"):
        read_manifest(tmp_path / "file", "thing")


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(KeyError), atomic_file(path, "w") as file:
        file.write("new")
        raise KeyError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_failed_folder_leaves_the_old_one(tmp_path):
    path = tmp_path / "folder"
    with atomic_folder(path) as temporary:
        (temporary / "a").write_text("old")
    with pytest.raises(KeyError), atomic_folder(path) as temporary:
        (temporary / "a").write_text("new")
        raise KeyError
    assert (path / "a").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_hash_json_ignores_the_order_of_keys():
    value = {"a": 1, "b": [1.5, None]}
    assert hash_json(value) == hash_json(json.loads('{"b": [1.5, null], "a": 1}'))
    assert hash_json(value) != hash_json({"a": 1, "b": [1.5, 0]})
