"""How many pairs there are: read off a few shards, or taken from the configuration where the shards are not here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.config import RunConfig
from selection.errors import ConfigError
from selection.shards import expand_shards, shard_names
from selection.tar_scan import TarLayout, scan_tar

SAMPLED_SHARDS = 4
"""Shards whose headers are read; the others are taken to hold as many pairs for their bytes."""

_USUAL_KEY_BYTES = 10
_USUAL_SHARD_PAIRS = 10_000  # where wildcards do not tell how many shards there are
_WILDCARDS = set("*?[")


@dataclass(frozen=True)
class Split:
    """The shards of one split.

    Attributes:
        name: as `data` has it, such as `train`.
        num_pairs: how many there are, or may be.
        num_shards: how many there are.
        num_bytes: of all shards.
        parts_per_pair: members of each sample.
        key_bytes: length of a sample's key.
        is_here: whether shards were looked at.
        source: where the counts come from, for people.
    """

    name: str
    num_pairs: int
    num_shards: int
    num_bytes: int
    parts_per_pair: float
    key_bytes: float
    is_here: bool
    source: str

    @property
    def pair_bytes(self) -> float:
        """Of a shard, for each of its pairs."""
        return self.num_bytes / self.num_pairs


def count_splits(config: RunConfig) -> list[Split]:
    """All splits, the training pairs first.

    Raises:
        ConfigError: shards are absent and the configuration does not say what they hold, some of them are missing, or
            none holds a pair or the parts that the encoder reads.
        ArtifactError: a shard that was looked at is damaged.
    """
    parts = sorted({config.encoder.u_part, config.encoder.v_part})
    splits: list[Split] = []
    for name, pattern in config.data.splits():
        field = f"data.{name}"
        names = shard_names(pattern, field)
        if config.plan.num_pairs is not None and not _are_any_here(names):
            splits.append(_described(config, name, names, splits))
        else:
            splits.append(_counted(name, _expand(pattern, field), parts))
    return splits


def check_parts(config: RunConfig, shards: Mapping[str, Sequence[Path]]) -> None:
    """Look into the first shard of every split, long before all of them are numbered or a job has waited for nodes.

    Raises:
        ConfigError: it lacks a part that the encoder reads.
        ArtifactError: it is damaged.
    """
    parts = sorted({config.encoder.u_part, config.encoder.v_part})
    for name, (first, *_) in shards.items():
        _check_parts(name, [first], [scan_tar(first)], parts)


def _expand(pattern: str, field: str) -> list[Path]:
    try:
        return expand_shards(pattern, field)
    except ConfigError as error:
        raise ConfigError(
            f"{error}, or say what all shards hold: plan.num_pairs, plan.pair_bytes"
        ) from None


def _are_any_here(names: Sequence[str]) -> bool:
    """Whether there is any shard; quick for 10^5 names in a folder that is not there."""
    by_folder: dict[str, list[str]] = {}
    for name in names:
        by_folder.setdefault(name.rpartition("/")[0], []).append(name)
    return any(
        any(map(_is_here, inside))
        for folder, inside in by_folder.items()
        if set(folder) & _WILDCARDS or Path(folder).expanduser().is_dir()
    )


def _is_here(name: str) -> bool:
    path = Path(name).expanduser()
    if set(name) & _WILDCARDS:
        return any(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
    return path.is_file()


def _described(
    config: RunConfig, name: str, names: Sequence[str], before: Sequence[Split]
) -> Split:
    """As the section `plan` says; other splits are taken to hold as many pairs in a shard as the training split."""
    num_pairs, pair_bytes = config.plan.num_pairs, config.plan.pair_bytes
    assert num_pairs is not None
    assert pair_bytes is not None
    num_shards = len(names)
    source = "not found here; planned from plan.num_pairs"
    if before:
        num_pairs = max(1, round(num_shards * before[0].num_pairs / before[0].num_shards))
        source = "not found here; planned with as many pairs in a shard as data.train"
    elif any(set(name) & _WILDCARDS for name in names):
        num_shards = -(-num_pairs // _USUAL_SHARD_PAIRS)
    num_parts = len({config.encoder.u_part, config.encoder.v_part})
    num_bytes = num_pairs * pair_bytes
    return Split(name, num_pairs, num_shards, num_bytes, num_parts, _USUAL_KEY_BYTES, False, source)


def _counted(name: str, shards: Sequence[Path], parts: Sequence[str]) -> Split:
    num_sampled = min(SAMPLED_SHARDS, len(shards))
    sampled = [shards[number * len(shards) // num_sampled] for number in range(num_sampled)]
    layouts = [scan_tar(shard) for shard in sampled]
    sampled_pairs = sum(layout.num_samples for layout in layouts)
    if not sampled_pairs:
        raise ConfigError(
            f"data.{name}: there is no pair in {num_sampled} of {len(shards)} shards; give others"
        )
    _check_parts(name, sampled, layouts, parts)
    num_bytes = sum(shard.stat().st_size for shard in shards)
    sampled_bytes = sum(shard.stat().st_size for shard in sampled)
    is_exact = num_sampled == len(shards)
    source = (
        "counted"
        if is_exact
        else f"estimated from {num_sampled} of {len(shards):,} shards and the bytes of all"
    )
    return Split(
        name,
        sampled_pairs if is_exact else round(sampled_pairs * num_bytes / sampled_bytes),
        len(shards),
        num_bytes,
        sum(len(layout.parts) for layout in layouts) / sampled_pairs,
        sum(len(layout.keys) for layout in layouts) / sampled_pairs,
        True,
        source,
    )


def _check_parts(
    name: str, shards: Sequence[Path], layouts: Sequence[TarLayout], parts: Sequence[str]
) -> None:
    for shard, layout in zip(shards, layouts, strict=True):
        absent = [part for part in parts if part not in layout.extensions]
        if layout.num_samples and absent:
            raise ConfigError(
                f"encoder: reads the part {absent[0]!r}, but {shard} of data.{name} holds "
                f"{', '.join(layout.extensions)}; let it read one of these, or give other shards"
            )
