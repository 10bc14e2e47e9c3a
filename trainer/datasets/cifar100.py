"""CIFAR-100, from its standard file, as WebDataset shards.

It comes as `cifar-100-binary.tar.gz`: per image one byte coarse label, one byte fine label, then 32 x 32 bytes each of
red, green and blue. The archive for Python holds pickles, and nothing here is unpickled.

    FOLDER/train, FOLDER/heldout      00000000.png picture, .json {"fine": "bus", "coarse": "vehicles_1"}

Memory: the archive's contents, 185 MB.

Legend: n images, s = 32 height and width.
"""

import io
import json
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from selection.artifacts import hash_file
from selection.errors import ArtifactError, ConfigError
from selection.progress import Progress
from trainer.datasets.shard_writer import find_dataset, split_part, write_dataset

_SIZE = 32
_RECORD_BYTES = 2 + 3 * _SIZE * _SIZE
_PARTS = {"train": "train.bin", "heldout": "test.bin"}
_BINARY = "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz"


def write_cifar100(
    folder: Path, source: Path, num_workers: int, progress: Progress
) -> dict[str, Any]:
    """Write CIFAR-100, unless `folder` holds it already.

    Args:
        folder: the artifact to make.
        source: `cifar-100-binary.tar.gz`.
        num_workers: processes that encode.
        progress: told of images written.

    Raises:
        ConfigError: `source` is absent or the archive for Python, or `folder` holds something else.
        ArtifactError: `source` is damaged.
    """
    parameters = {"source": _hash_source(source)}
    if manifest := find_dataset(folder, parameters):
        return manifest
    files = _read_archive(source)
    names = tuple(files[f"{kind}_label_names.txt"].decode().split() for kind in ("coarse", "fine"))
    shards = []
    for part, name in _PARTS.items():
        if not files[name] or len(files[name]) % _RECORD_BYTES:
            raise ArtifactError(
                f"{source}: {name} has {len(files[name])} bytes, expected a multiple of {_RECORD_BYTES}; "
                f"get the file again from {_BINARY}"
            )
        records = np.frombuffer(files[name], np.uint8).reshape(-1, _RECORD_BYTES)
        if (records[:, :2] >= [len(found) for found in names]).any():
            raise ArtifactError(
                f"{source}: {name} has a label without a name; get the file again from {_BINARY}"
            )
        shards += split_part(part, len(records), _Cifar(records, names).between)
    return write_dataset(folder, parameters, shards, num_workers, progress, {})


def _hash_source(source: Path) -> str:
    if not source.is_file():
        raise ConfigError(f"--source: {source} is no file; get {_BINARY}")
    return hash_file(source)


def _read_archive(source: Path) -> dict[str, bytes]:
    """The files that are needed, by name."""
    wanted = {*_PARTS.values(), "coarse_label_names.txt", "fine_label_names.txt"}
    try:
        with tarfile.open(source) as tar:
            members = {Path(member.name).name: member for member in tar if member.isfile()}
            if {"train", "test", "meta"} <= members.keys():
                raise ConfigError(
                    f"--source: {source} is the archive for Python, whose files are pickles and are not read, "
                    f"because unpickling runs code; get the binary one, {_BINARY}"
                )
            if missing := wanted - members.keys():
                raise ConfigError(f"--source: {source} holds no {min(missing)}; get {_BINARY}")
            return {name: _content(tar, members[name]) for name in wanted}
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise ArtifactError(
            f"{source}: cannot be read ({error}); get it again from {_BINARY}"
        ) from None


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None, "members that are no files were left out"
    return file.read()


@dataclass(frozen=True)
class _Cifar:
    """Records of CIFAR-100; what a process gets to make a shard of."""

    records: UInt8[np.ndarray, "n bytes"]
    label_names: tuple[list[str], ...]  # coarse, fine

    def between(self, start: int, stop: int) -> Callable[[], Iterator[Mapping[str, Any]]]:
        return _Cifar(self.records[start:stop].copy(), self.label_names).samples

    def samples(self) -> Iterator[Mapping[str, Any]]:
        coarse_names, fine_names = self.label_names
        for record in self.records:
            labels = {"fine": fine_names[record[1]], "coarse": coarse_names[record[0]]}
            pixels = record[2:].reshape(3, _SIZE, _SIZE).transpose(1, 2, 0)
            yield picture(pixels, labels)


def picture(pixels: UInt8[np.ndarray, "s s 3"], told: Mapping[str, Any]) -> dict[str, Any]:
    """A sample: an image, and what is known of it."""
    png = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(png, "PNG")
    return {"png": png.getvalue(), "json": json.dumps(told) + "\n"}
