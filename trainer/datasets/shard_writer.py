"""Data sets as WebDataset shards, written by several processes, complete or not there at all.

    FOLDER/PART/shard-000000.tar       samples 00000000, 00000001, ...
    FOLDER/manifest.json               how it was made, and what each part holds

A shard is the unit of work: what makes its samples travels to a process, which writes them one by one. Nothing
depends on the number of processes.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from selection.artifacts import atomic_folder, has_manifest, read_manifest, write_manifest
from selection.errors import ConfigError
from selection.processes import run_all
from selection.progress import Progress

KIND = "dataset"
PAIRS_PER_SHARD = 2_048


@dataclass(frozen=True)
class Shard:
    """One shard to write.

    Attributes:
        part: of the data set, such as "train".
        number: of the shard in its part.
        first: number of its first sample in the part.
        num_samples: how many there are.
        make: makes the samples, as {extension: bytes or text}; picklable.
    """

    part: str
    number: int
    first: int
    num_samples: int
    make: Callable[[], Iterable[Mapping[str, Any]]]

    @property
    def name(self) -> str:
        """Where it lies in the data set."""
        return f"{self.part}/shard-{self.number:06d}.tar"


def split_part(
    part: str, num_samples: int, make: Callable[[int, int], Callable[[], Iterable[Mapping]]]
) -> list[Shard]:
    """The shards of a part.

    Args:
        part: its name.
        num_samples: in all.
        make: from the first sample of a shard and the one after its last to `Shard.make`.
    """
    bounds = [*range(0, num_samples, PAIRS_PER_SHARD), num_samples]
    return [
        Shard(part, number, start, stop - start, make(start, stop))
        for number, (start, stop) in enumerate(itertools.pairwise(bounds))
    ]


def find_dataset(folder: Path, parameters: Mapping[str, Any]) -> dict[str, Any] | None:
    """The manifest of a data set that was made with the same parameters before; None if `folder` is free.

    Raises:
        ConfigError: `folder` holds something else.
        ArtifactError: the data set in it is damaged.
    """
    if not folder.name:
        raise ConfigError(f"{folder} cannot be replaced as a whole; name a folder inside it")
    if not has_manifest(folder):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"{folder} is not an empty folder; choose another one, or delete it")
        return None
    manifest = read_manifest(folder, KIND, hashes=False)
    found = manifest.get("parameters", {})
    for name, value in parameters.items():
        if found.get(name) != value:
            raise ConfigError(
                f"{folder}: holds a data set made with {name} = {found.get(name)!r}, expected {value!r}; "
                "choose another folder, or delete this one"
            )
    return manifest


def write_dataset(
    folder: Path,
    parameters: Mapping[str, Any],
    shards: Sequence[Shard],
    num_workers: int,
    progress: Progress,
    fields: Mapping[str, Any],
) -> dict[str, Any]:
    """Write a data set.

    Args:
        folder: the artifact to make; free, as `find_dataset` says.
        parameters: what decides its contents.
        shards: of all parts.
        num_workers: processes that write.
        progress: told of samples written.
        fields: what else the manifest says; below the name of a part, what it says of that part.

    Returns:
        The manifest, with `num_pairs` of each part.
    """
    sizes: dict[str, int] = {}
    for shard in shards:
        sizes[shard.part] = sizes.get(shard.part, 0) + shard.num_samples
    parts = {part: {"num_pairs": size, **fields.get(part, {})} for part, size in sizes.items()}
    num_done, total = 0, sum(sizes.values())
    with atomic_folder(folder) as temporary:
        for part in parts:
            (temporary / part).mkdir()
        progress("write", 0, total)
        for shard, _ in run_all(partial(_write, temporary), shards, num_workers):
            num_done += shard.num_samples
            progress("write", num_done, total)
        names = [shard.name for shard in shards]
        content = {"parameters": dict(parameters), **fields, **parts}
        write_manifest(temporary, KIND, names, content)
    return read_manifest(folder, KIND, hashes=False)


def _write(folder: Path, shard: Shard) -> None:
    from webdataset.writer import (
        TarWriter,
    )  # imports torch, which `coterie dataset --help` never needs

    path = folder / shard.name
    with path.open("wb") as file, TarWriter(file, user="", group="", mtime=0) as tar:
        for number, sample in enumerate(shard.make(), start=shard.first):
            tar.write({"__key__": f"{number:08d}", **sample})
