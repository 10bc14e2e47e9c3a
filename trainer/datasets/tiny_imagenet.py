"""Tiny ImageNet, from its standard file `tiny-imagenet-200.zip`, as WebDataset shards.

    tiny-imagenet-200/wnids.txt, words.txt                   classes, and what they are called
    tiny-imagenet-200/train/n01443537/images/*.JPEG          500 images of each of 200 classes
    tiny-imagenet-200/val/images/*.JPEG                      10,000 images, whose classes are in
    tiny-imagenet-200/val/val_annotations.txt

Its test images have no labels and are left out. Images are copied as they are. Training images are shuffled, because
in the archive those of one class lie together.

    FOLDER/train, FOLDER/heldout      00000000.jpg picture, .json {"class": "n01443537", "name": "goldfish, ..."}
"""

import json
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from selection.artifacts import hash_file
from selection.errors import ArtifactError, ConfigError
from selection.progress import Progress
from trainer.datasets.shard_writer import find_dataset, split_part, write_dataset

_ROOT = "tiny-imagenet-200"
_URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
_SEED = 0


def write_tiny_imagenet(
    folder: Path, source: Path, num_workers: int, progress: Progress
) -> dict[str, Any]:
    """Write Tiny ImageNet, unless `folder` holds it already.

    Args:
        folder: the artifact to make.
        source: `tiny-imagenet-200.zip`.
        num_workers: processes that copy.
        progress: told of images written.

    Raises:
        ConfigError: `source` is absent or something else, or `folder` holds something else.
        ArtifactError: `source` is damaged, or lacks an image that it names.
    """
    if not source.is_file():
        raise ConfigError(f"--source: {source} is no file; get {_URL}")
    parameters = {"source": hash_file(source), "seed": _SEED}
    if manifest := find_dataset(folder, parameters):
        return manifest
    try:
        with zipfile.ZipFile(source) as archive:
            parts = {"train": _train_images(archive), "heldout": _heldout_images(archive)}
            names = _class_names(archive)
            absent = {name for name, _ in parts["heldout"]} - set(archive.namelist())
    except (zipfile.BadZipFile, zlib.error, ValueError) as error:
        raise ArtifactError(
            f"{source}: cannot be read ({error}); get it again from {_URL}"
        ) from None
    except KeyError as error:
        raise ConfigError(
            f"--source: {source} is not {_ROOT}.zip ({error.args[0]}); get {_URL}"
        ) from None
    if absent:
        raise ArtifactError(f"{source}: lacks {min(absent)}; get it again from {_URL}")
    shards = []
    for part, images in parts.items():
        if not images:
            raise ConfigError(f"--source: {source} holds no images for {part}; get {_URL}")
        shards += split_part(part, len(images), _Images(source, images, names).between)
    return write_dataset(folder, parameters, shards, num_workers, progress, {})


def _train_images(archive: zipfile.ZipFile) -> list[tuple[str, str]]:
    """File and class of the training images, shuffled."""
    found = []
    for name in sorted(archive.namelist()):
        match name.split("/"):
            case [root, "train", wnid, "images", file] if root == _ROOT and file.endswith(".JPEG"):
                found.append((name, wnid))
    return [found[number] for number in np.random.default_rng(_SEED).permutation(len(found))]


def _heldout_images(archive: zipfile.ZipFile) -> list[tuple[str, str]]:
    """File and class of the validation images."""
    lines = _lines(archive, "val/val_annotations.txt")
    rows = (line.split("\t") for line in lines)
    return [(f"{_ROOT}/val/images/{file}", wnid) for file, wnid, *_ in rows]


def _class_names(archive: zipfile.ZipFile) -> dict[str, str]:
    classes = set(_lines(archive, "wnids.txt"))
    rows = (line.split("\t") for line in _lines(archive, "words.txt"))
    return {wnid: name for wnid, name in rows if wnid in classes}


def _lines(archive: zipfile.ZipFile, name: str) -> list[str]:
    return archive.read(f"{_ROOT}/{name}").decode().splitlines()


@dataclass(frozen=True)
class _Images:
    """Images in an archive; what a process gets to make a shard of."""

    source: Path
    images: list[tuple[str, str]]
    class_names: Mapping[str, str]

    def between(self, start: int, stop: int) -> Callable[[], Iterator[Mapping[str, Any]]]:
        return _Images(self.source, self.images[start:stop], self.class_names).samples

    def samples(self) -> Iterator[Mapping[str, Any]]:
        with zipfile.ZipFile(self.source) as archive:
            for name, wnid in self.images:
                told = {"class": wnid, "name": self.class_names.get(wnid, wnid)}
                yield {"jpg": self._read(archive, name), "json": json.dumps(told) + "\n"}

    def _read(self, archive: zipfile.ZipFile, name: str) -> bytes:
        try:
            return archive.read(name)
        except (zipfile.BadZipFile, zlib.error) as error:
            raise ArtifactError(
                f"{self.source}: {name} cannot be read ({error}); get it again from {_URL}"
            ) from None
