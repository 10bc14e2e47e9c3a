"""A code-search data set from the Python installed here: docstring in, function body out.

It gives every user real pairs without a download: some ten thousands from an environment with
torch and scipy. Files of the standard library and of the installed packages are parsed, never
imported.

Pairs are filtered (`python_functions`), then exact duplicates (same words in the docstring, or
same body) and near duplicates (`near_duplicates`, estimated Jaccard similarity of docstring and
body from 0.8) are removed: each would be a false negative in a batch, and a leak between the two
parts. Of each group the first by package, path and line stays.

The split is by top-level package, so that the held-out part asks for code of authors never trained
on. In the order of a hash, as many packages are held out as give 8% of the pairs, or 2,000 if that
is more, or a quarter of all if that is less; none of them may be more than a quarter of that part.
Pairs are ordered by a hash of where they come from: that mixes packages within shards, makes a
smaller `limit` a prefix of a larger one, and gives the same files for the same environment,
whatever the number of processes.

    FOLDER/train/shard-000000.tar      WebDataset: 00000000.txt docstring, .py body, .json origin
    FOLDER/heldout/shard-000000.tar
    FOLDER/manifest.json

Memory is that of the pairs found, about 2 KB each.
"""

import hashlib
import json
import multiprocessing
import os
import re
import sysconfig
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt32

from selection.artifacts import atomic_folder, has_manifest, read_manifest, write_manifest
from selection.errors import ConfigError
from selection.progress import Progress
from trainer.datasets.near_duplicates import first_of_each, minhash
from trainer.datasets.python_functions import Function, functions_of

NEAR_DUPLICATE_SIMILARITY = 0.8
MIN_HELDOUT_PAIRS = 2_000
HELDOUT_SHARE, MAX_HELDOUT_SHARE = 0.08, 0.25
MAX_PACKAGE_SHARE_OF_HELDOUT = 0.25
PAIRS_PER_SHARD = 2_048
SEED = 0
PARTS = ("train", "heldout")

_KIND = "dataset"
_FILES_PER_TASK = 64
_Task = list[tuple[Path, Path]]  # root, file
_SKIPPED_FOLDERS = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
_TEST_FILE = re.compile(r"(test_.*|.*_test|conftest)\.py")


@dataclass(frozen=True)
class Pair:
    """One function, where it is from, and its MinHash signature."""

    package: str
    path: str
    function: Function
    signature: UInt32[np.ndarray, "h"]

    @property
    def position(self) -> tuple[str, str, int, str]:
        """What pairs are sorted by; the same in every copy of the environment."""
        return self.package, self.path, self.function.line, self.function.qualname

    @property
    def shuffle_key(self) -> bytes:
        """Orders pairs as if at random."""
        return _hash(*map(str, self.position))

    def sample(self, key: str) -> dict[str, str]:
        """The pair as webdataset's writer wants it."""
        origin = {
            "package": self.package,
            "path": self.path,
            "qualname": self.function.qualname,
            "signature": self.function.signature,
            "line": self.function.line,
        }
        return {
            "__key__": key,
            "txt": self.function.doc,
            "py": self.function.body + "\n",
            "json": json.dumps(origin, sort_keys=True) + "\n",
        }


def write_code_search(
    folder: Path,
    limit: int | None,
    num_workers: int,
    progress: Progress,
    roots: Sequence[Path] | None = None,
) -> dict[str, Any]:
    """Write the data set, unless `folder` holds it already.

    Args:
        folder: the artifact to make.
        limit: training pairs at most; the held-out part is then capped at an eighth of it, or
            2,000 pairs if that is more. None keeps all.
        num_workers: processes that parse.
        progress: told of files parsed and pairs written.
        roots: folders that hold packages. None: the standard library and the installed packages of
            this Python.

    Returns:
        The manifest: `num_pairs` and `packages` of each part, what was skipped, and the parameters.

    Raises:
        ConfigError: `folder` holds something else, or `roots` hold too little for both parts.
        ArtifactError: the data set in `folder` is damaged.
    """
    chosen = installed_roots() if roots is None else roots
    roots = sorted({root.resolve() for root in chosen})
    parameters = {"limit": limit, "roots": [str(root) for root in roots], **_constants()}
    if has_manifest(folder):
        return _existing(folder, parameters)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is not an empty folder; choose another one, or delete it")
    found, counts = _find_pairs(roots, num_workers, progress)
    pairs = deduplicate(found)
    counts["num_near_or_exact_duplicates"] = len(found) - len(pairs)
    parts = cap(*split_by_package(pairs), limit)
    if not all(parts):
        raise ConfigError(
            f"roots: found {len(pairs)} pairs in {len({pair.package for pair in pairs})} packages of "
            f"{', '.join(map(str, roots))}, too few for a training and a held-out part; add roots"
        )
    with atomic_folder(folder) as temporary:
        files = _write_shards(temporary, dict(zip(PARTS, parts, strict=True)), progress)
        content = {name: _summary(part) for name, part in zip(PARTS, parts, strict=True)}
        write_manifest(temporary, _KIND, files, {"parameters": parameters, **counts, **content})
    return read_manifest(folder, _KIND, hashes=False)


def installed_roots() -> list[Path]:
    """Where this Python keeps its standard library and its packages."""
    return [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")]


def deduplicate(pairs: Sequence[Pair]) -> list[Pair]:
    """Drop pairs that say, or do, what an earlier one does."""
    seen: set[tuple[str, str]] = set()
    distinct = []
    for pair in pairs:
        doc = " ".join(re.findall(r"[a-z0-9]+", pair.function.doc.lower()))
        body = " ".join(pair.function.body.split())
        if not {("doc", doc), ("body", body)} & seen:
            distinct.append(pair)
            seen |= {("doc", doc), ("body", body)}
    if not distinct:
        return []
    signatures = np.stack([pair.signature for pair in distinct])
    kept = first_of_each(signatures, NEAR_DUPLICATE_SIMILARITY)
    return [distinct[row] for row in np.flatnonzero(kept)]


def split_by_package(pairs: Sequence[Pair]) -> tuple[list[Pair], list[Pair]]:
    """Divide pairs into a training and a held-out part that share no package."""
    sizes = Counter(pair.package for pair in pairs)
    target = max(MIN_HELDOUT_PAIRS, HELDOUT_SHARE * len(pairs))
    target = min(target, MAX_HELDOUT_SHARE * len(pairs))
    heldout: set[str] = set()
    num_heldout = 0
    for package in sorted(sizes, key=_hash):
        if num_heldout < target and sizes[package] <= MAX_PACKAGE_SHARE_OF_HELDOUT * target:
            heldout.add(package)
            num_heldout += sizes[package]
    train = [pair for pair in pairs if pair.package not in heldout]
    return train, [pair for pair in pairs if pair.package in heldout]


def cap(
    train: Sequence[Pair], heldout: Sequence[Pair], limit: int | None
) -> tuple[list[Pair], list[Pair]]:
    """Shuffle both parts and keep the first of each, as `write_code_search` says."""
    max_heldout = None if limit is None else max(MIN_HELDOUT_PAIRS, limit // 8)
    return (
        sorted(train, key=lambda pair: pair.shuffle_key)[:limit],
        sorted(heldout, key=lambda pair: pair.shuffle_key)[:max_heldout],
    )


def _hash(*words: str) -> bytes:
    return hashlib.blake2b("\0".join((str(SEED), *words)).encode(), digest_size=16).digest()


def _constants() -> dict[str, Any]:
    return {
        "seed": SEED,
        "pairs_per_shard": PAIRS_PER_SHARD,
        "near_duplicate_similarity": NEAR_DUPLICATE_SIMILARITY,
        "min_heldout_pairs": MIN_HELDOUT_PAIRS,
    }


def _existing(folder: Path, parameters: dict[str, Any]) -> dict[str, Any]:
    manifest = read_manifest(folder, _KIND, hashes=False)
    found = manifest.get("parameters", {})
    different = [name for name in parameters if found.get(name) != parameters[name]]
    if different:
        name = different[0]
        raise ConfigError(
            f"{folder}: holds a data set made with {name} = {found.get(name)!r}, expected "
            f"{parameters[name]!r}; choose another folder, or delete this one"
        )
    return manifest


def _find_pairs(
    roots: Sequence[Path], num_workers: int, progress: Progress
) -> tuple[list[Pair], dict[str, int]]:
    files = [(root, path) for root in roots for path in _python_files(root)]
    tasks = [
        files[start : start + _FILES_PER_TASK] for start in range(0, len(files), _FILES_PER_TASK)
    ]
    pairs: list[Pair] = []
    num_unparsable = num_done = 0
    progress("parse", 0, len(files), "files")
    for task, (found, unparsable) in _run(tasks, num_workers):
        pairs += found
        num_unparsable += unparsable
        num_done += len(task)
        progress("parse", num_done, len(files), "files")
    pairs.sort(key=lambda pair: pair.position)  # tasks finish in any order
    return pairs, {
        "num_files": len(files),
        "num_unparsable_files": num_unparsable,
        "num_pairs_found": len(pairs),
    }


def _run(
    tasks: Sequence[_Task], num_workers: int
) -> Iterator[tuple[_Task, tuple[list[Pair], int]]]:
    if min(num_workers, len(tasks)) <= 1:
        yield from ((task, _pairs_of_files(task)) for task in tasks)
        return
    # Spawned, not forked: the caller may run threads, of torch or of Ray.
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(num_workers, len(tasks)), mp_context=spawn)
    try:
        running = {pool.submit(_pairs_of_files, task): task for task in tasks}
        for finished in as_completed(running):
            yield running[finished], finished.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _python_files(root: Path) -> Iterator[Path]:
    """Files below `root` that are not tests, in any order; links to folders are not followed."""
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in _SKIPPED_FOLDERS]
        for name in names:
            if name.endswith(".py") and not _TEST_FILE.fullmatch(name):
                yield Path(folder, name)


def _pairs_of_files(files: _Task) -> tuple[list[Pair], int]:
    pairs: list[Pair] = []
    num_unparsable = 0
    for root, path in files:
        functions = functions_of(path)
        num_unparsable += functions is None
        relative = path.relative_to(root)
        package = relative.parts[0].removesuffix(".py")
        pairs += (
            Pair(package, relative.as_posix(), function, minhash(f"{function.doc} {function.body}"))
            for function in functions or ()
        )
    return pairs, num_unparsable


def _write_shards(
    folder: Path, parts: Mapping[str, Sequence[Pair]], progress: Progress
) -> list[str]:
    """Write all parts and return the names of the files."""
    total, num_done = sum(map(len, parts.values())), 0
    names = []
    for part, pairs in parts.items():
        (folder / part).mkdir()
        for number, start in enumerate(range(0, len(pairs), PAIRS_PER_SHARD)):
            names.append(f"{part}/shard-{number:06d}.tar")
            shard = pairs[start : start + PAIRS_PER_SHARD]
            _write_shard(folder / names[-1], start, shard)
            num_done += len(shard)
            progress("write", num_done, total)
    return names


def _write_shard(path: Path, first: int, pairs: Sequence[Pair]) -> None:
    from webdataset.writer import TarWriter  # imports torch, which the parsing processes never need

    with path.open("wb") as file, TarWriter(file, user="", group="", mtime=0) as tar:
        for number, pair in enumerate(pairs, start=first):
            tar.write(pair.sample(f"{number:08d}"))


def _summary(pairs: Sequence[Pair]) -> dict[str, Any]:
    sizes = Counter(pair.package for pair in pairs)
    return {"num_pairs": len(pairs), "packages": dict(sorted(sizes.items()))}
