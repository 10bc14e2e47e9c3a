"""CIFAR-100-C, from its standard file, as WebDataset shards: every test image, corrupted in 19 ways.

It comes as `CIFAR-100-C.tar`, or unpacked: one array of uint8 [50000, 32, 32, 3] per corruption, in which severity s of
the test images is rows 10000 (s - 1) to 10000 s. Arrays are read by their headers, a few rows at a time; one that
holds objects, which would have to be unpickled, is refused. The shards hold, one after the other, all corruptions of
the first image, then of the second: the pools of `trainer.evaluate.corrupted_retrieval`.

    FOLDER/corrupted/shard-000000.tar    00000000.png, .json {"image": 0, "corruption": "fog", "severity": 5}

Legend: n images, s = 32 height and width.
"""

import hashlib
import io
import json
import math
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import UInt8

from selection.errors import ArtifactError, ConfigError
from selection.progress import Progress
from trainer.datasets.cifar100 import picture
from trainer.datasets.shard_writer import find_dataset, split_part, write_dataset
from trainer.encoders import PairReader

NUM_SEVERITIES = 5
_MOST_CORRUPTIONS = 99


def write_cifar100_c(
    folder: Path, source: Path, severity: int, num_workers: int, progress: Progress
) -> dict[str, Any]:
    """Write one severity of CIFAR-100-C, unless `folder` holds it already.

    Args:
        folder: the artifact to make.
        source: `CIFAR-100-C.tar`, or the folder that it unpacks to.
        severity: 1 to 5.
        num_workers: processes that encode.
        progress: told of images written.

    Returns:
        The manifest; part `corrupted` has `corruptions`, their names in the order of each pool.

    Raises:
        ConfigError: `source` is absent or holds no corruptions, or `folder` holds something else.
        ArtifactError: `source` is no tar, or an array is cut off or of another shape or type, such as one that would
            have to be unpickled.
    """
    arrays = _Arrays.find(source)
    num_images = arrays.check()
    parameters = {
        "corruptions": list(arrays.names),
        "severity": severity,
        "source": arrays.fingerprint(),
    }
    if manifest := find_dataset(folder, parameters):
        return manifest
    make = _Corrupted(arrays, severity, num_images, 0, 0).between
    shards = split_part("corrupted", num_images * len(arrays.names), make)
    fields = {"corrupted": {"corruptions": list(arrays.names)}}
    return write_dataset(folder, parameters, shards, num_workers, progress, fields)


def count_corruptions(pairs: PairReader) -> int:
    """Corruptions of each image, as the first samples tell.

    Raises:
        ArtifactError: a sample does not say of which image it is, or the samples are no whole number of images with as
            many corruptions as the first.
    """
    samples = pairs.read(np.arange(min(len(pairs), _MOST_CORRUPTIONS + 1)))
    try:
        images = [json.loads(sample["json"])["image"] for sample in samples]
    except (KeyError, TypeError, ValueError):
        raise ArtifactError(
            'data.corrupted: a sample has no .json with "image"; `coterie dataset cifar100-c` writes them so'
        ) from None
    count = next((n for n, image in enumerate(images) if image != images[0]), len(images))
    if len(pairs) % count:
        raise ArtifactError(
            f"data.corrupted: the first image has {count} corruptions, but {len(pairs):,} samples are no whole number "
            "of such images; give all shards, in their order"
        )
    return count


@dataclass(frozen=True)
class _Arrays:
    """The `.npy` files of CIFAR-100-C, in a tar or a folder."""

    source: Path
    names: tuple[str, ...]
    places: tuple[tuple[Path, int], ...]  # file, and where in it the array begins

    @classmethod
    def find(cls, source: Path) -> "_Arrays":
        """Find them, by name; `labels.npy` is none of them."""
        if source.is_dir():
            found = {path.stem: (path, 0) for path in source.glob("*.npy")}
        elif source.is_file():
            found = cls._in_tar(source)
        else:
            raise ConfigError(
                f"--source: {source} is neither a file nor a folder; get CIFAR-100-C.tar"
            )
        found.pop("labels", None)
        if not found:
            raise ConfigError(
                f"--source: {source} holds no .npy file but labels; get CIFAR-100-C.tar"
            )
        return cls(source, tuple(sorted(found)), tuple(found[name] for name in sorted(found)))

    @staticmethod
    def _in_tar(source: Path) -> dict[str, tuple[Path, int]]:
        try:
            with tarfile.open(source, "r:") as tar:
                arrays = [member for member in tar if member.name.endswith(".npy")]
        except tarfile.TarError as error:
            raise ArtifactError(
                f"{source}: is no tar ({error}); get CIFAR-100-C.tar, and unpack it if it was compressed"
            ) from None
        return {Path(member.name).stem: (source, member.offset_data) for member in arrays}

    def check(self) -> int:
        """Images of each severity.

        Raises:
            ArtifactError: see `write_cifar100_c`.
        """
        expected = None
        for name, (path, offset) in zip(self.names, self.places, strict=True):
            with path.open("rb") as file:
                file.seek(offset)
                shape = read_header(file, f"{self.source}: {name}.npy")
                num_bytes = path.stat().st_size - file.tell()
            if num_bytes < math.prod(shape):
                raise ArtifactError(f"{self.source}: {name}.npy is cut off; get the data set again")
            expected = expected or shape
            if shape != expected or not shape[0] or shape[0] % NUM_SEVERITIES:
                raise ArtifactError(
                    f"{self.source}: {name}.npy has shape {shape}, expected {expected} with a multiple of "
                    f"{NUM_SEVERITIES} rows; get the data set again"
                )
        assert expected is not None, "there is an array"
        return expected[0] // NUM_SEVERITIES

    def fingerprint(self) -> str:
        """Hash of the first images of every array; reading all 3 GB would take longer than a second call should."""
        numbers = range(len(self.names))
        first = [self.rows(number, 0, NUM_SEVERITIES).tobytes() for number in numbers]
        return hashlib.blake2b(b"".join(first), digest_size=16).hexdigest()

    def rows(self, number: int, start: int, stop: int) -> UInt8[np.ndarray, "n s s 3"]:
        """Images of one array."""
        path, offset = self.places[number]
        with path.open("rb") as file:
            file.seek(offset)
            _, *inner = read_header(file, f"{self.source}: {self.names[number]}.npy")
            num_bytes = int(np.prod(inner))
            file.seek(start * num_bytes, io.SEEK_CUR)
            content = file.read((stop - start) * num_bytes)
        return np.frombuffer(content, np.uint8).reshape(stop - start, *inner)


def read_header(file: IO[bytes], name: str) -> tuple[int, ...]:
    """Shape of an array of images in a `.npy` file, read up to where the numbers begin.

    Raises:
        ArtifactError: it is no such file, or holds anything but uint8 [n, s, s, 3], such as pickled objects.
    """
    try:
        version = np.lib.format.read_magic(file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        shape, is_fortran, dtype = read[version](file)
    except (KeyError, ValueError) as error:
        raise ArtifactError(f"{name} is no .npy file ({error}); get it again") from None
    if dtype != np.uint8 or is_fortran or len(shape) != 4 or shape[3] != 3:
        raise ArtifactError(
            f"{name} holds {dtype} {shape}, expected uint8 (n, s, s, 3); get it again"
        )
    return shape


@dataclass(frozen=True)
class _Corrupted:
    """Consecutive samples of CIFAR-100-C; what a process gets to make a shard of."""

    arrays: _Arrays
    severity: int
    num_images: int
    start: int
    stop: int

    def between(self, start: int, stop: int) -> Callable[[], Iterator[Mapping[str, Any]]]:
        return _Corrupted(self.arrays, self.severity, self.num_images, start, stop).samples

    def samples(self) -> Iterator[Mapping[str, Any]]:
        names = self.arrays.names
        first, last = self.start // len(names), -(-self.stop // len(names))  # images
        before = (self.severity - 1) * self.num_images
        blocks = [self.arrays.rows(n, before + first, before + last) for n in range(len(names))]
        for number in range(self.start, self.stop):
            image, corruption = divmod(number, len(names))
            told = {"image": image, "corruption": names[corruption], "severity": self.severity}
            yield picture(blocks[corruption][image - first], told)
