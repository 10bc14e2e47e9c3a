"""Artifacts on disk: written to a temporary name and renamed, described by a manifest, verified when opened.

An artifact is a folder of files and one `manifest.json`. The manifest is written last, so a folder with a
manifest is complete, and a crash leaves nothing that could be mistaken for a result.
"""

import hashlib
import importlib.metadata
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from selection.errors import ArtifactError

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
_HASH_BLOCK_BYTES = 1 << 20


@contextmanager
def atomic_file(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path`; on success flush it to disk and rename it to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        with temporary.open(mode) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Fill a temporary folder beside `path`; on success it replaces `path`."""
    temporary = _temporary(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        shutil.rmtree(path, ignore_errors=True)
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def is_temporary(path: Path) -> bool:
    """Whether it is what `atomic_file` or `atomic_folder` were filling, perhaps when their process was killed."""
    return path.name.startswith(".") and path.suffix == ".tmp"


def write_array(path: Path, array: np.ndarray) -> None:
    """Save `array` as `.npy`, atomically; `numpy.load(path, mmap_mode="r")` maps it."""
    with atomic_file(path) as file:
        np.save(file, array)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Save `value` as indented JSON, atomically."""
    with atomic_file(path, "w") as file:
        json.dump(value, file, indent=2)
        file.write("\n")


def hash_file(path: Path) -> str:
    """BLAKE2b-128 of the bytes of a file, as 32 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(_HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def hash_json(value: Any) -> str:
    """BLAKE2b-128 of the canonical JSON of `value`, as 32 hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def write_manifest(
    folder: Path, kind: str, files: Sequence[str], fields: Mapping[str, Any], hashes: bool = True
) -> None:
    """Complete the artifact in `folder`: record size and hash of `files` together with `fields`.

    Without `hashes`, sizes alone: for what is too large to be read once more.
    """
    entries: dict[str, dict[str, Any]] = {
        name: {"bytes": (folder / name).stat().st_size} for name in files
    }
    if hashes:
        for name, entry in entries.items():
            entry["hash"] = hash_file(folder / name)
    header = {
        "kind": kind,
        "format_version": FORMAT_VERSION,
        "code_version": importlib.metadata.version("coterie"),
    }
    write_json(folder / MANIFEST, {**header, **fields, "files": entries})


def has_manifest(folder: Path) -> bool:
    """Whether the artifact in `folder` was completed."""
    return (folder / MANIFEST).is_file()


def read_manifest(
    folder: Path, kind: str, expected: Mapping[str, Any] | None = None, hashes: bool = True
) -> dict[str, Any]:
    """Read and verify the manifest of the artifact in `folder`.

    Args:
        folder: the artifact.
        kind: what it must be, as given to `write_manifest`.
        expected: fields whose values must agree, such as the hash of an input.
        hashes: whether to hash the contents; sizes are always compared.

    Raises:
        ArtifactError: it is absent, of another kind or format, stale, truncated or altered.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise ArtifactError(
            f"{folder}: found no {MANIFEST}, expected a complete {kind}; make it again"
        ) from None
    except ValueError:
        raise ArtifactError(f"{path}: not valid JSON; delete {folder} and make it again") from None
    if not isinstance(manifest, dict) or not _names_files(manifest.get("files")):
        raise ArtifactError(f"{path}: names no files; delete {folder} and make it again")
    wanted = {"kind": kind, "format_version": FORMAT_VERSION, **(expected or {})}
    for field, value in wanted.items():
        if manifest.get(field) != value:
            raise ArtifactError(
                f"{path}: {field} is {manifest.get(field)!r}, expected {value!r}; "
                f"delete {folder} and make it again"
            )
    for name, entry in manifest["files"].items():
        _verify_file(folder / name, entry, hashes)
    return manifest


def _names_files(entries: Any) -> bool:
    return isinstance(entries, dict) and all(
        isinstance(entry, dict) and isinstance(entry.get("bytes"), int)
        for entry in entries.values()
    )


def _verify_file(path: Path, entry: Mapping[str, Any], hashes: bool) -> None:
    if not path.is_file():
        found = "nothing"
    elif path.stat().st_size != entry["bytes"]:
        found = f"{path.stat().st_size} bytes"
    elif hashes and "hash" in entry and hash_file(path) != entry["hash"]:
        found = f"contents {hash_file(path)}"
    else:
        return
    with_hash = f" with hash {entry['hash']}" if "hash" in entry else ""
    raise ArtifactError(
        f"{path}: found {found}, expected {entry['bytes']} bytes{with_hash}; delete {path.parent} and make it again"
    )
