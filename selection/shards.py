"""The data set as N numbered pairs: an index over WebDataset tars, made once and reused.

webdataset reads tars from front to back; a schedule names pairs anywhere. So the headers are
scanned once (`selection.tar_scan`, shards in parallel) and every part's byte range is kept in flat
arrays that `selection.shard_index` reads by id. One small file per shard makes the scan parallel
and resumable at 10^9 pairs, where one SQLite table for all of them takes days.

On disk, in `index/`:

    shard-000000.npy    uint8, memory-mappable; three arrays one after the other (`TarLayout.pack`):
                        samples  8 bytes x (samples + 1)  first part, start of key: prefix sums
                        parts   20 bytes x parts          offset and size in tar, extension number
                        keys    the UTF-8 of all keys
    shard-000000.json   path, size and mtime of the tar, counts, extensions; written last, so a
                        shard that has it need not be scanned again
    manifest.json       the same records for all shards, in order; written when all are done

A pair of two parts with a ten-byte key takes 58 bytes.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import braceexpand

from selection.artifacts import (
    MANIFEST,
    has_manifest,
    hash_file,
    hash_json,
    is_temporary,
    read_manifest,
    write_array,
    write_json,
    write_manifest,
)
from selection.errors import ArtifactError, ConfigError
from selection.processes import run_all
from selection.progress import Progress, silent
from selection.shard_index import INDEX_KIND, Sample, ShardIndex
from selection.tar_scan import COMPRESSED_SUFFIXES, scan_tar

__all__ = ["Sample", "ShardIndex", "build_index", "expand_shards", "shard_names"]


def expand_shards(pattern: str, field: str = "shards") -> list[Path]:
    """List the shards that a pattern names.

    Args:
        pattern: a path with brace ranges (`train-{000000..000012}.tar`), wildcards (`*`, `?`,
            `[ab]`, `**`), or both.
        field: the setting that holds `pattern`, for the message.

    Returns:
        Paths, sorted, each once.

    Raises:
        ConfigError: nothing matches, a shard named without wildcards is missing, or a match is
            compressed.
    """
    names = shard_names(pattern, field)
    shards = sorted({shard for name in names for shard in _match(name, field)})
    if not shards:
        raise ConfigError(f"{field}: {pattern!r} matches no file; correct the path or the pattern")
    for shard in shards:
        if shard.name.endswith(COMPRESSED_SUFFIXES):
            raise ConfigError(
                f"{field}: {shard} is compressed, expected a plain tar, "
                f"which can be read at any byte; decompress it"
            )
    return shards


def shard_names(pattern: str, field: str = "shards") -> list[str]:
    """Expand the brace ranges of a pattern, without looking whether there are such files; wildcards stay.

    Raises:
        ConfigError: it is remote, or its braces are unbalanced.
    """
    if "://" in pattern or pattern.startswith("pipe:"):
        raise ConfigError(
            f"{field}: {pattern!r} is remote, expected local files; copy or mount them"
        )
    try:
        return list(braceexpand.braceexpand(pattern))
    except ValueError:
        raise ConfigError(
            f"{field}: {pattern!r} has unbalanced braces; close or remove them"
        ) from None


def _match(name: str, field: str) -> list[Path]:
    path = Path(name).expanduser()
    if set(name) & set("*?["):
        found = Path(path.anchor).glob(str(path.relative_to(path.anchor)))
        return [match for match in found if match.is_file()]
    if not path.is_file():
        raise ConfigError(
            f"{field}: found no file {path}; correct the range or copy the missing shard"
        )
    return [path]


def build_index(
    shards: Sequence[Path], folder: Path, progress: Progress = silent, num_workers: int = 1
) -> ShardIndex:
    """Index `shards` into `folder`, scanning only those that it does not hold already.

    Args:
        shards: plain tars; their order is the order of the ids.
        folder: the artifact; created if absent, brought up to date if it is of other shards.
        progress: told of every finished shard.
        num_workers: processes that scan; with several, the caller's main module must be importable.

    Returns:
        The open index. It may hold no pair at all when every shard is empty.

    Raises:
        ConfigError: the folder holds something else.
        ArtifactError: a shard is missing, truncated, compressed or no tar.
    """
    _check_folder(folder)
    jobs = [
        _ScanJob(folder / f"shard-{number:06d}.npy", path.absolute())
        for number, path in enumerate(shards)
    ]
    records = {job.index_file: record for job in jobs if (record := job.recorded())}
    if not _is_complete(folder, list(records.values()), len(jobs)):
        # a new manifest would take the layouts for good as they are
        records = {f: r for f, r in records.items() if hash_file(f) == r["layout_hash"]}
        unfinished = [job for job in jobs if job.index_file not in records]
        (folder / MANIFEST).unlink(missing_ok=True)
        progress("index", len(records), len(jobs), "shards")
        for job, record in run_all(_ScanJob.run, unfinished, num_workers):
            records[job.index_file] = record
            progress("index", len(records), len(jobs), "shards")
        _complete(folder, {job.index_file: records[job.index_file] for job in jobs})
    return ShardIndex.open(folder)


def _check_folder(folder: Path) -> None:
    """Only an index is replaced by another one, or what an interrupted scan left of one."""
    if not folder.exists() or (folder.is_dir() and all(map(is_temporary, folder.iterdir()))):
        return
    if has_manifest(folder):
        # as text, since another program's need be neither an object nor JSON
        is_index = f'"kind": "{INDEX_KIND}"' in (folder / MANIFEST).read_text(errors="replace")
    else:
        is_index = any(folder.glob("shard-*.json"))
    if not is_index:
        raise ConfigError(f"{folder} exists and is no index; choose another folder")


@dataclass(frozen=True)
class _ScanJob:
    """One shard to index; travels to a worker process."""

    index_file: Path
    shard: Path

    def recorded(self) -> dict[str, Any] | None:
        """What an earlier scan recorded, if the shard has not changed since."""
        record_file = self.index_file.with_suffix(".json")
        if not (record_file.is_file() and self.index_file.is_file()):
            return None
        record = json.loads(record_file.read_text())
        return record if _identity(self.shard).items() <= record.items() else None

    def run(self) -> dict[str, Any]:
        """Scan the shard, save its layout, and only then the record that says so."""
        identity = _identity(self.shard)  # before the scan: a change during it shows up as stale
        layout = scan_tar(self.shard)
        record_file = self.index_file.with_suffix(".json")
        record_file.unlink(missing_ok=True)
        write_array(self.index_file, layout.pack())
        record = {
            **identity,
            "num_samples": layout.num_samples,
            "num_parts": len(layout.parts),
            "extensions": list(layout.extensions),
            "layout_hash": hash_file(self.index_file),
        }
        write_json(record_file, record)
        return record


def _identity(shard: Path) -> dict[str, Any]:
    try:
        status = shard.stat()
    except FileNotFoundError:
        raise ArtifactError(
            f"{shard}: found no such shard; restore it or index the others"
        ) from None
    return {"path": str(shard), "bytes": status.st_size, "mtime_ns": status.st_mtime_ns}


def _is_complete(folder: Path, records: list[dict[str, Any]], num_shards: int) -> bool:
    if len(records) < num_shards or not has_manifest(folder):
        return False
    return read_manifest(folder, INDEX_KIND, hashes=False)["shards"] == records


def _complete(folder: Path, records: Mapping[Path, dict[str, Any]]) -> None:
    for file in folder.glob("shard-*.npy"):
        if file not in records:  # of an earlier index with more shards
            file.with_suffix(".json").unlink(missing_ok=True)
            file.unlink()
    content = [
        [Path(shard["path"]).name, shard["bytes"], shard["extensions"], shard["layout_hash"]]
        for shard in records.values()
    ]
    fields = {
        "num_samples": sum(shard["num_samples"] for shard in records.values()),
        "content_hash": hash_json(content),
        "shards": list(records.values()),
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_manifest(folder, INDEX_KIND, [file.name for file in records], fields)
