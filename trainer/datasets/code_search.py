"""A code-search data set from the Python installed here: docstring in, function body out.

It gives every user real pairs without a download: some ten thousands from an environment with
torch and scipy. Files of the standard library and of the installed packages are parsed, never
imported.

Pairs are filtered (`python_functions`), then exact duplicates (same words in the docstring, or
same body) and near duplicates (`near_duplicates`, estimated Jaccard similarity of docstring and
body from 0.8) are removed: each would be a false negative in a batch, and a leak between the
parts. Of each group the first by package, path and line stays.

The split is by top-level package, so that two parts ask for code of authors never trained on: settings
are chosen on the validation part, results reported on the held-out part. In the order of a hash,
packages go to the held-out part until it has 8% of the pairs, or 2,000 if that is more, or a quarter of
all if that is less; then as much goes to the validation part, and the rest is trained on. No package
of those two may be more than a quarter of its part. A fourth part asks for code of authors that are
trained on: 8% of the other pairs, in the order of a hash. Pairs are ordered by a hash of where they
come from: that mixes packages within shards, makes a smaller `limit` a prefix of a larger one, and
gives the same files for the same environment, whatever the number of processes.

    FOLDER/train/shard-000000.tar      WebDataset: 00000000.txt docstring, .py body, .json origin
    FOLDER/validation/shard-000000.tar
    FOLDER/heldout/shard-000000.tar
    FOLDER/known/shard-000000.tar      of packages that are trained on
    FOLDER/manifest.json

Memory is that of the pairs found, about 2 KB each.
"""

import hashlib
import json
import math
import os
import re
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt32

from selection.errors import ConfigError
from selection.processes import run_all
from selection.progress import Progress
from trainer.datasets.near_duplicates import first_of_each, minhash
from trainer.datasets.python_functions import Function, functions_of
from trainer.datasets.shard_writer import PAIRS_PER_SHARD, find_dataset, split_part, write_dataset

NEAR_DUPLICATE_SIMILARITY = 0.8
MIN_HELDOUT_PAIRS = 2_000
HELDOUT_SHARE, MAX_HELDOUT_SHARE = 0.08, 0.25
KNOWN_SHARE = 0.08
MAX_PACKAGE_SHARE = 0.25
SEED = 0
PARTS = ("train", "validation", "heldout", "known")

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

    def sample(self) -> dict[str, str]:
        """The parts of the pair, as webdataset's writer wants them."""
        origin = {
            "package": self.package,
            "path": self.path,
            "qualname": self.function.qualname,
            "signature": self.function.signature,
            "line": self.function.line,
        }
        return {
            "txt": self.function.doc,
            "py": self.function.body + "\n",
            "json": json.dumps(origin, sort_keys=True) + "\n",
        }


def write_code_search(
    folder: Path,
    limit: int | None,
    roots: Sequence[Path] | None,
    num_workers: int,
    progress: Progress,
) -> dict[str, Any]:
    """Write the data set, unless `folder` holds it already.

    Args:
        folder: the artifact to make.
        limit: training pairs at most; each of the other parts is then capped at an eighth of it, or
            2,000 pairs if that is more. None keeps all.
        roots: folders that hold packages. None: the standard library and the installed packages of
            this Python.
        num_workers: processes that parse.
        progress: told of files parsed and pairs written.

    Returns:
        The manifest: `num_pairs` and `packages` of each part, what was skipped, and the parameters.

    Raises:
        ConfigError: `folder` holds something else, or `roots` hold too little for all parts.
        ArtifactError: the data set in `folder` is damaged.
    """
    chosen = installed_roots() if roots is None else roots
    roots = sorted({root.resolve() for root in chosen})
    if absent := [root for root in roots if not root.is_dir()]:
        raise ConfigError(f"--roots: {absent[0]} is no folder; give folders that hold packages")
    parameters = {"limit": limit, "roots": [str(root) for root in roots], **_constants()}
    if manifest := find_dataset(folder, parameters):
        return manifest
    found, counts = _find_pairs(roots, num_workers, progress)
    pairs = deduplicate(found)
    counts["num_near_or_exact_duplicates"] = len(found) - len(pairs)
    parts = cap(split(pairs), limit)
    if not all(parts.values()):
        raise ConfigError(
            f"--roots: found {len(pairs)} pairs in {len({pair.package for pair in pairs})} packages of "
            f"{', '.join(map(str, roots))}, too few for {len(PARTS)} parts; add roots"
        )
    shards = []
    for part, pairs in parts.items():
        samples = [pair.sample() for pair in pairs]
        shards += split_part(part, len(samples), partial(_slice, samples))
        counts[part] = {"packages": _packages(pairs)}
    # By one process: the samples are here already, and writing them takes less time than sending them.
    return write_dataset(folder, parameters, shards, 1, progress, counts)


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


def split(pairs: Sequence[Pair]) -> dict[str, list[Pair]]:
    """Divide pairs into the `PARTS`; only `train` and `known` share packages."""
    sizes = Counter(pair.package for pair in pairs)
    target = max(MIN_HELDOUT_PAIRS, HELDOUT_SHARE * len(pairs))
    target = min(target, MAX_HELDOUT_SHARE * len(pairs))
    part_of = dict.fromkeys(sizes, "train")
    for part in ("heldout", "validation"):
        num_taken = 0
        for package in sorted(sizes, key=_hash):
            is_free = part_of[package] == "train"
            if is_free and num_taken < target and sizes[package] <= MAX_PACKAGE_SHARE * target:
                part_of[package] = part
                num_taken += sizes[package]
    parts = {part: [pair for pair in pairs if part_of[pair.package] == part] for part in PARTS}
    num_known = math.ceil(KNOWN_SHARE * len(parts["train"]))
    mixed = sorted(parts["train"], key=lambda pair: _hash("known", *map(str, pair.position)))
    return {**parts, "known": mixed[:num_known], "train": mixed[num_known:]}


def cap(parts: Mapping[str, Sequence[Pair]], limit: int | None) -> dict[str, list[Pair]]:
    """Shuffle all parts and keep the first of each, as `write_code_search` says."""
    most = None if limit is None else max(MIN_HELDOUT_PAIRS, limit // 8)
    return {
        part: sorted(pairs, key=lambda pair: pair.shuffle_key)[: limit if part == "train" else most]
        for part, pairs in parts.items()
    }


def _hash(*words: str) -> bytes:
    return hashlib.blake2b("\0".join((str(SEED), *words)).encode(), digest_size=16).digest()


def _constants() -> dict[str, Any]:
    return {
        "parts": list(PARTS),
        "seed": SEED,
        "pairs_per_shard": PAIRS_PER_SHARD,
        "near_duplicate_similarity": NEAR_DUPLICATE_SIMILARITY,
        "min_heldout_pairs": MIN_HELDOUT_PAIRS,
        "known_share": KNOWN_SHARE,
    }


def _find_pairs(
    roots: Sequence[Path], num_workers: int, progress: Progress
) -> tuple[list[Pair], dict[str, Any]]:
    files = [(root, path) for root in roots for path in _python_files(root)]
    tasks = [
        files[start : start + _FILES_PER_TASK] for start in range(0, len(files), _FILES_PER_TASK)
    ]
    pairs: list[Pair] = []
    num_unparsable = num_done = 0
    progress("parse", 0, len(files), "files")
    for task, (found, unparsable) in run_all(_pairs_of_files, tasks, num_workers):
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


def _slice(samples: list[dict[str, str]], start: int, stop: int) -> Callable[[], list]:
    return partial(list, samples[start:stop])


def _packages(pairs: Sequence[Pair]) -> dict[str, int]:
    """Pairs of each package."""
    return dict(sorted(Counter(pair.package for pair in pairs).items()))
