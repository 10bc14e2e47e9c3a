"""A generated image-text data set: scenes and captions of which everything is known.

On real pairs nobody knows which negatives are false. Here each pair says what it means (`trainer/datasets/scenes.py`),
and how the meanings lie to each other is a parameter:

- A *class* is a tree of meanings. A confusable meaning differs from its parent in one attribute, the others in
  `NUM_CHANGES_EASY`. Confusable pairs are hard negatives, and right ones.
- Two pairs of one meaning, with another picture and another caption, are *false negatives* of each other. A given share
  of the training pairs has exactly one such twin, the others have none.

No meaning is in two parts, no class either, and the parts that judge have no false negatives, so that the partner is
the one right answer. Samples are in random order.

    FOLDER/train/shard-000000.tar     00000000.txt caption, .png picture, .json what it means
    FOLDER/validation/...             as large as `sizes_of` says
    FOLDER/heldout/...

Meanings are made in one process, in O(n) memory; pictures, which take the time, in several. Every sample is a function
of the seed, its part and its number.

Legend: n pairs, m meanings, a attributes.
"""

import io
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from selection.errors import ConfigError
from selection.progress import Progress
from trainer.datasets.scenes import (
    NUM_MEANINGS,
    NUM_STYLES,
    NUM_VALUES,
    caption,
    describe,
    meaning_ids,
    render,
)
from trainer.datasets.shard_writer import Shard, find_dataset, split_part, write_dataset

NUM_CHANGES_EASY = 5
MIN_JUDGED, JUDGED_SHARE = 256, 0.125
PICTURE_SIZE = 32
PARTS = ("train", "validation", "heldout")

_MAX_PAIRS = NUM_MEANINGS // 10  # beyond, new meanings are hard to find
_MAX_ROOTS = math.prod(number - 1 for number in NUM_VALUES) // 2  # of the meanings without a zero


@dataclass(frozen=True)
class ImageTextRequest:
    """What to generate.

    Attributes:
        num_pairs: of the training part.
        num_classes: trees of meanings among them; other parts have as many pairs per class.
        confusable: share of meanings made from another one of their class by changing one attribute.
        false_negatives: share of training pairs that have a twin.
        seed: of everything.
    """

    num_pairs: int
    num_classes: int
    confusable: float = 0.5
    false_negatives: float = 0.1
    seed: int = 0

    def check(self) -> None:
        """Check that there is such a data set.

        Raises:
            ConfigError: there is not.
        """
        if self.num_pairs > _MAX_PAIRS:
            raise ConfigError(
                f"--pairs: is {self.num_pairs}, but must not exceed {_MAX_PAIRS}; take fewer"
            )
        if not 1 <= self.num_classes <= self.num_meanings:
            raise ConfigError(
                f"--classes: is {self.num_classes}, but must be from 1 to the number of meanings "
                f"({self.num_meanings}); take fewer classes, more pairs or fewer false negatives"
            )
        if (num_roots := sum(self.sizes_of(part)[1] for part in PARTS)) > _MAX_ROOTS:
            raise ConfigError(
                f"--classes: {num_roots} of all parts, but must not exceed {_MAX_ROOTS}; take fewer"
            )

    @property
    def num_twins(self) -> int:
        """Training pairs whose meaning an earlier one has."""
        return min(round(self.false_negatives * self.num_pairs / 2), self.num_pairs // 2)

    @property
    def num_meanings(self) -> int:
        """Distinct meanings of the training part."""
        return self.num_pairs - self.num_twins

    def sizes_of(self, part: str) -> tuple[int, int]:
        """Distinct meanings and classes of a part.

        Those that judge have an eighth of the training pairs, or `MIN_JUDGED` if that is more, in classes as large.
        """
        if part == "train":
            return self.num_meanings, self.num_classes
        num_judged = max(MIN_JUDGED, round(JUDGED_SHARE * self.num_pairs))
        return num_judged, max(1, round(self.num_classes * num_judged / self.num_pairs))


@dataclass(frozen=True)
class Meanings:
    """Distinct meanings.

    Attributes:
        values: numbers of the attributes' values.
        class_ids: the class of each.
        num_changed: attributes that differ from its parent; all of them for the root of a class.
    """

    values: Int64[np.ndarray, "m a"]
    class_ids: Int64[np.ndarray, "m"]
    num_changed: Int64[np.ndarray, "m"]

    def take(self, rows: Int64[np.ndarray, "n"], first_class: int = 0) -> "Meanings":
        """The meanings of `rows`, in that order, with classes counted from `first_class`."""
        class_ids = self.class_ids[rows] + first_class
        return Meanings(self.values[rows], class_ids, self.num_changed[rows])


def write_image_text(
    folder: Path, request: ImageTextRequest, num_workers: int, progress: Progress
) -> dict[str, Any]:
    """Write the data set, unless `folder` holds it already.

    Args:
        folder: the artifact to make.
        request: what to generate.
        num_workers: processes that draw.
        progress: told of pairs written.

    Returns:
        The manifest: `num_pairs` of each part, and of the training part `num_twins`, the pairs of equal meaning.

    Raises:
        ConfigError: `folder` holds something else, or there is no such data set.
        ArtifactError: the data set in `folder` is damaged.
    """
    request.check()
    parameters = {
        **vars(request),
        "picture_size": PICTURE_SIZE,
        "num_changes_easy": NUM_CHANGES_EASY,
    }
    if manifest := find_dataset(folder, parameters):
        return manifest
    taken: set[int] = set()
    shards: list[Shard] = []
    first_class = 0
    for number, part in enumerate(PARTS):
        rng = np.random.default_rng([request.seed, number])
        num_meanings, num_classes = request.sizes_of(part)
        meanings = make_meanings(num_meanings, num_classes, request.confusable, taken, rng)
        rows, styles = arrange(num_meanings, request.num_twins if part == "train" else 0, rng)
        pairs = _Pairs(meanings.take(rows, first_class), styles, (request.seed, number))
        shards += split_part(part, len(rows), pairs.between)
        first_class += num_classes
    fields = {"train": {"num_twins": request.num_twins}}
    return write_dataset(folder, parameters, shards, num_workers, progress, fields)


def make_meanings(
    num_meanings: int,
    num_classes: int,
    confusable: float,
    taken: set[int],
    rng: np.random.Generator,
) -> Meanings:
    """Grow classes, a meaning for each in turn, so that their sizes differ by one at most.

    Args:
        num_meanings: m.
        num_classes: trees to grow.
        confusable: share of meanings, roots aside, that differ from their parent in one attribute.
        taken: meanings that are in use, by `meaning_ids`; the new ones are added.
        rng: decides.
    """
    num_attributes = len(NUM_VALUES)
    values = np.zeros((num_meanings, num_attributes), np.int64)
    class_ids = np.arange(num_meanings) % num_classes
    num_changed = np.where(rng.random(num_meanings) < confusable, 1, NUM_CHANGES_EASY)
    num_changed[:num_classes] = num_attributes  # of a zero that is not there
    for start in range(0, num_meanings, num_classes):
        pending = np.arange(start, min(start + num_classes, num_meanings))
        while len(pending):
            # Parents are drawn anew as well: all neighbours of one meaning may be taken.
            generation = rng.integers(max(1, start // num_classes), size=len(pending))
            parents = values[class_ids[pending] + generation * num_classes]
            values[pending] = change(parents, num_changed[pending], rng)
            pending = pending[~_take(meaning_ids(values[pending]), taken)]
    return Meanings(values, class_ids, num_changed)


def change(
    values: Int64[np.ndarray, "n a"], num_changed: Int64[np.ndarray, "n"], rng: np.random.Generator
) -> Int64[np.ndarray, "n a"]:
    """Give so many attributes of each row another value."""
    places = rng.random(values.shape).argsort(axis=1).argsort(axis=1)
    steps = rng.integers(1, NUM_VALUES, values.shape)  # never back to the same value
    return np.where(places < num_changed[:, None], (values + steps) % NUM_VALUES, values)


def _take(ids: Int64[np.ndarray, "n"], taken: set[int]) -> np.ndarray:
    """Take the ids that are free; True where one was."""
    was_free = np.zeros(len(ids), bool)
    for row, meaning in enumerate(ids.tolist()):
        was_free[row] = meaning not in taken
        taken.add(meaning)
    return was_free


def arrange(
    num_meanings: int, num_twins: int, rng: np.random.Generator
) -> tuple[Int64[np.ndarray, "n"], Int64[np.ndarray, "n"]]:
    """Shuffle meanings into pairs, of which `num_twins` repeat a meaning once.

    Returns:
        The meaning of each pair, and the style of its caption; twins have different ones.
    """
    twins = rng.permutation(num_meanings)[:num_twins]
    styles = rng.integers(NUM_STYLES, size=num_meanings)
    rows = np.concatenate([np.arange(num_meanings), twins])
    styles = np.concatenate([styles, (styles[twins] + 1) % NUM_STYLES])
    order = rng.permutation(len(rows))
    return rows[order], styles[order]


@dataclass(frozen=True)
class _Pairs:
    """Consecutive pairs of a part, not yet drawn; what a process gets to make a shard of."""

    meanings: Meanings
    styles: Int64[np.ndarray, "n"]
    key: tuple[int, int]  # seed, number of the part
    first: int = 0

    def between(self, start: int, stop: int) -> Callable[[], Iterator[Mapping[str, Any]]]:
        rows = np.arange(start, stop)
        return _Pairs(self.meanings.take(rows), self.styles[rows], self.key, start).draw

    def draw(self) -> Iterator[Mapping[str, Any]]:
        ids = meaning_ids(self.meanings.values).tolist()
        for row, meaning in enumerate(self.meanings.values):
            rng = np.random.default_rng([*self.key, self.first + row])
            png = io.BytesIO()
            render(meaning, PICTURE_SIZE, rng).save(png, "PNG")
            truth = {
                "meaning": ids[row],
                "class": int(self.meanings.class_ids[row]),
                "num_changed": int(self.meanings.num_changed[row]),
                "attributes": describe(meaning),
            }
            yield {
                "txt": caption(meaning, int(self.styles[row]), rng),
                "png": png.getvalue(),
                "json": json.dumps(truth) + "\n",
            }
