"""What one WebDataset tar holds: the key of each sample and the byte range of each of its parts.

Only headers are read; payloads are skipped by a seek, so the cost is one small read per member,
whatever the payloads weigh. `tarfile` parses the headers because it knows GNU and pax long names.
The grouping rules are those of `webdataset.tariterators`, so that id k names the sample that
webdataset's own reader yields:

- key and extension are split at the first dot of the basename; the directory stays in the key;
- extensions are lowercased; a second member with the same extension in one sample is an error;
- a sample ends where the key changes, so members that lie apart make two samples;
- folders, links, names without a dot, and metadata (`__name__`, or below a folder `__name__/`) are
  skipped.

webdataset reads on past a cut at a header and yields the samples before it. Here a tar must end
with its zero block, because a shard that lost its tail would silently change the number of pairs.

While a shard is scanned, memory is 20 bytes per part and 16 per sample plus its key.
"""

import re
import tarfile
from array import array
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from selection.errors import ArtifactError

COMPRESSED_SUFFIXES = (".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".lz4")

# One more row than samples: row k+1 says where sample k ends.
SAMPLE_DTYPE = np.dtype([("first_part", "<u4"), ("key_start", "<u4")])
PART_DTYPE = np.dtype([("offset", "<u8"), ("num_bytes", "<u8"), ("extension", "<u4")])

_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_KEY_AND_EXTENSION = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")  # webdataset's base_plus_ext
_METADATA = re.compile(r"__[^/]*__($|/)")  # webdataset's skip_meta
# Fields that webdataset keeps beside the parts of a sample.
_RESERVED = ("__key__", "__url__", "__local_path__", "__bad__")


@dataclass(frozen=True)
class TarLayout:
    """Samples and parts of one tar; the arrays may be memory-mapped.

    Attributes:
        samples: `SAMPLE_DTYPE` [num_samples + 1], prefix sums into `parts` and `keys`.
        parts: `PART_DTYPE` [num_parts], in the order of the tar.
        keys: UTF-8 of all keys, one after the other.
        extensions: what the field `extension` of a part counts.
    """

    samples: np.ndarray
    parts: np.ndarray
    keys: UInt8[np.ndarray, "key_bytes"]
    extensions: tuple[str, ...]

    @property
    def num_samples(self) -> int:
        """How many samples the tar holds."""
        return len(self.samples) - 1

    def key(self, row: int) -> str:
        """The key of sample `row`."""
        start, stop = self.samples["key_start"][row : row + 2]
        return self.keys[start:stop].tobytes().decode("utf-8", "surrogateescape")

    def pack(self) -> UInt8[np.ndarray, "packed_bytes"]:
        """All arrays as one, so that a shard's index is one file and one memory map."""
        return np.concatenate(
            [self.samples.view(np.uint8), self.parts.view(np.uint8), self.keys], dtype=np.uint8
        )

    @classmethod
    def unpack(
        cls,
        packed: UInt8[np.ndarray, "packed_bytes"],
        num_samples: int,
        num_parts: int,
        extensions: tuple[str, ...],
    ) -> "TarLayout":
        """Views into what `pack` returned; nothing is copied."""
        parts_start = (num_samples + 1) * SAMPLE_DTYPE.itemsize
        keys_start = parts_start + num_parts * PART_DTYPE.itemsize
        return cls(
            samples=packed[:parts_start].view(SAMPLE_DTYPE),
            parts=packed[parts_start:keys_start].view(PART_DTYPE),
            keys=packed[keys_start:],
            extensions=extensions,
        )


def scan_tar(path: Path) -> TarLayout:
    """Read the headers of a tar.

    Args:
        path: an uncompressed tar on a file system that can seek.

    Returns:
        Its layout; a tar without samples is allowed.

    Raises:
        ArtifactError: it is compressed, cut short, no tar, sparse, or repeats an extension in one
            sample.
    """
    grouping = _Grouping(path)
    with path.open("rb") as file:
        _refuse_compressed(path, file.peek(8))
        try:
            with tarfile.open(fileobj=file, mode="r:", encoding="utf-8") as tar:
                while (member := tar.next()) is not None:
                    # Without this, one object per member would stay.
                    tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue]
                    grouping.add(member)
                end = tar.offset  # of the first block that is no header
        except tarfile.TarError as error:
            raise _truncated(path, str(error)) from None
        file.seek(end)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise _truncated(path, f"no header and no end-of-archive block at byte {end}")
    return grouping.layout()


class _Grouping:
    """Turns the members of one tar, in order, into samples; compact arrays, no object per part."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._key: str | None = None
        self._extensions_of_sample: set[str] = set()
        self._extension_ids: dict[str, int] = {}
        self._first_parts, self._key_starts = array("Q"), array("Q")
        self._offsets, self._sizes, self._extensions = array("Q"), array("Q"), array("I")
        self._keys = bytearray()

    def add(self, member: tarfile.TarInfo) -> None:
        """Take the next member."""
        if not member.isreg() or _METADATA.match(member.name):
            return
        split = _KEY_AND_EXTENSION.match(member.name)
        if split is None:
            return
        key, extension = split[1], split[2].lower()
        if key != self._key:
            self._start_sample(key)
        self._check_part(member, extension)
        self._extensions_of_sample.add(extension)
        self._offsets.append(member.offset_data)
        self._sizes.append(member.size)
        self._extensions.append(self._extension_ids.setdefault(extension, len(self._extension_ids)))

    def layout(self) -> TarLayout:
        """All samples taken so far."""
        samples = np.empty(len(self._first_parts) + 1, SAMPLE_DTYPE)
        samples["first_part"] = [*self._first_parts, len(self._offsets)]
        samples["key_start"] = [*self._key_starts, len(self._keys)]
        parts = np.empty(len(self._offsets), PART_DTYPE)
        parts["offset"], parts["num_bytes"] = self._offsets, self._sizes
        parts["extension"] = self._extensions
        keys = np.frombuffer(bytes(self._keys), np.uint8)
        return TarLayout(samples, parts, keys, tuple(self._extension_ids))

    def _start_sample(self, key: str) -> None:
        self._key = key
        self._extensions_of_sample.clear()
        self._first_parts.append(len(self._offsets))
        self._key_starts.append(len(self._keys))
        self._keys += key.encode("utf-8", "surrogateescape")

    def _check_part(self, member: tarfile.TarInfo, extension: str) -> None:
        if extension in self._extensions_of_sample:
            rule = f"sample {self._key!r} has a second part {extension!r}, expected one of each"
        elif extension in _RESERVED:
            rule = f"extension {extension!r} is reserved by webdataset"
        elif member.issparse():
            rule = "sparse member, expected its bytes in one piece"
        else:
            return
        raise ArtifactError(f"{self._path}: member {member.name!r}: {rule}; write the shard again")


def _refuse_compressed(path: Path, head: bytes) -> None:
    for magic, name in _MAGIC.items():
        if head.startswith(magic):
            raise ArtifactError(
                f"{path}: compressed with {name}, expected a plain tar, "
                f"which can be read at any byte; decompress it"
            )


def _truncated(path: Path, found: str) -> ArtifactError:
    return ArtifactError(f"{path}: truncated or not a tar ({found}); copy or write the shard again")
