"""The store of embeddings: U and V of every pair, written shard by shard, read as memory maps.

One file per shard, float [2, rows, d], holds u and v of its pairs in index order; it is renamed into place when it
is finished, so that a pass that was cut off goes on with the shards that are missing. A second file holds hashes of
what the pairs hold, uint64 [2, rows], because nothing else reads every byte of them. The manifest follows when all are
there. On disk: 2 * N * d * 2 (float16) or 4 (float32) bytes, and 16 N for the hashes.

Legend: n pairs, d dimensions.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, UInt64

from selection.artifacts import has_manifest, read_manifest, write_array, write_json, write_manifest
from selection.blocks import StoreBlock
from selection.errors import ArtifactError, JobError

KIND = "embeddings"
_INPUTS = "inputs.json"
_NORM_TOLERANCE = 2e-2  # float16 alone costs 1e-3; more means that the encoder does not normalise


class EmbeddingStore:
    """The embeddings of one data set by one checkpoint.

    Args:
        folder: where the store is, or will be.
        shard_sizes: pairs in each shard, in index order.
        inputs: what the embeddings are made from (hashes of index and checkpoint, dtype); shards that were made
            from something else are thrown away.
    """

    def __init__(self, folder: Path, shard_sizes: list[int], inputs: Mapping[str, Any]) -> None:
        self.folder = folder
        self.shard_sizes = shard_sizes
        self._inputs = dict(inputs)
        if not self._has_same_inputs():
            if folder.exists():
                shutil.rmtree(folder)  # or else what stays would pass for what is made now
            write_json(folder / _INPUTS, self._inputs)

    @property
    def num_pairs(self) -> int:
        """N."""
        return sum(self.shard_sizes)

    def missing_shards(self) -> list[int]:
        """Shards that have pairs and no finished files."""
        return [
            shard
            for shard, size in enumerate(self.shard_sizes)
            if size
            and not (self._shard_path(shard).is_file() and self._contents_path(shard).is_file())
        ]

    def write_shard(
        self,
        shard: int,
        U: Float[np.ndarray, "n d"],
        V: Float[np.ndarray, "n d"],
        contents: UInt64[np.ndarray, "2 n"],
    ) -> None:
        """Write one shard.

        Args:
            shard: its number.
            U: first embeddings of its pairs, in index order.
            V: second embeddings.
            contents: hashes of what the pairs hold, see `selection.duplicates.hash_parts`.

        Raises:
            JobError: a row is not finite or not on the unit sphere.
        """
        both = np.stack([U, V])
        norms = np.linalg.norm(both.astype(np.float32, copy=False), axis=2)
        if not np.all(np.abs(norms - 1) <= _NORM_TOLERANCE):  # also catches NaN
            bad = int(np.argmax(~(np.abs(norms - 1) <= _NORM_TOLERANCE).all(axis=0)))
            raise JobError(
                f"the encoder gave row {bad} of shard {shard} the norms {norms[:, bad].tolist()}, expected 1; "
                "training may have diverged: look at train/loss and lower train.optimizer.lr"
            )
        dtype = self._inputs.get("dtype", "float32")
        write_array(self._contents_path(shard), contents)
        write_array(self._shard_path(shard), both.astype(dtype, copy=False))

    def complete(self) -> None:
        """Write the manifest.

        Raises:
            ArtifactError: a shard is missing.
        """
        if missing := self.missing_shards():
            raise ArtifactError(
                f"{self.folder}: {len(missing)} shards have no embeddings; embed again"
            )
        shards = [shard for shard, size in enumerate(self.shard_sizes) if size]
        names = {
            "shards": [self._shard_path(shard).name for shard in shards],
            "contents": [self._contents_path(shard).name for shard in shards],
        }
        sizes = [self.shard_sizes[shard] for shard in shards]
        fields = {"num_pairs": self.num_pairs, "sizes": sizes, "inputs": self._inputs, **names}
        files = [*names["shards"], *names["contents"]]
        write_manifest(self.folder, KIND, files, fields, hashes=False)

    def is_complete(self) -> bool:
        """Whether every shard and the manifest are there."""
        return has_manifest(self.folder)

    def _shard_path(self, shard: int) -> Path:
        return self.folder / f"shard-{shard:06d}.npy"

    def _contents_path(self, shard: int) -> Path:
        return self.folder / f"contents-{shard:06d}.npy"

    def _has_same_inputs(self) -> bool:
        try:
            return json.loads((self.folder / _INPUTS).read_text()) == self._inputs
        except (FileNotFoundError, ValueError):
            return False


def load_embeddings(folder: Path) -> tuple[Float32[np.ndarray, "n d"], Float32[np.ndarray, "n d"]]:
    """U and V of a complete store, float32 and contiguous, as FAISS wants them: 8 * N * d bytes.

    Raises:
        ArtifactError: the store is incomplete, or a file has another size than it had.
    """
    manifest = read_manifest(folder, KIND, hashes=False)
    shards = [np.load(folder / name, mmap_mode="r") for name in manifest["shards"]]
    num_pairs, dim = manifest["num_pairs"], shards[0].shape[2]
    both = np.empty((2, num_pairs, dim), np.float32)
    start = 0
    for shard in shards:
        both[:, start : start + shard.shape[1]] = shard
        start += shard.shape[1]
    return both[0], both[1]


def store_blocks(folder: Path) -> list[StoreBlock]:
    """The shards of a complete store, for who does not want to hold all of them.

    Raises:
        ArtifactError: the store is incomplete, or a file has another size than it had.
    """
    manifest = read_manifest(folder, KIND, hashes=False)
    lasts = np.cumsum(manifest["sizes"]).tolist()
    names = zip(manifest["shards"], manifest["contents"], manifest["sizes"], lasts, strict=True)
    return [
        StoreBlock(folder / embeddings, folder / contents, last - size, last)
        for embeddings, contents, size, last in names
    ]


def load_contents(folder: Path) -> UInt64[np.ndarray, "2 n"]:
    """Hashes of what both sides of all pairs of a complete store hold.

    Raises:
        ArtifactError: the store is incomplete, or a file has another size than it had.
    """
    manifest = read_manifest(folder, KIND, hashes=False)
    return np.concatenate([np.load(folder / name) for name in manifest["contents"]], axis=1)
