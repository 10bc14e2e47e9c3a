"""The batches to look at: which pairs were put together, and what they hold, read from the shards.

A data set is not trusted: its bytes become text, which the page escapes, or pictures of a kind that browsers only draw.
When the shards have moved, ids and similarities are left.
"""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from launcher.record import Record
from selection.errors import ArtifactError
from selection.schedule import open_schedule, schedule_folder
from selection.shard_index import ShardIndex

_NUM_UNMEASURED = 4  # pairs of pairs that are shown of a batch without similarities
_HEAD_CHARS, _HEAD_LINES = 220, 4
_MOST_CHARS = 4000
_MOST_IMAGE_BYTES = 256 << 10
_IMAGES = {b"\x89PNG\r\n": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif"}


@dataclass(frozen=True)
class Part:
    """One side of a pair: a picture, or a text and its beginning."""

    name: str
    head: str
    text: str = ""
    """The whole of it, or the beginning of a long one; empty when the head is all there is."""

    image: str = ""
    """A data URI."""


@dataclass(frozen=True)
class Pair:
    """A pair of the data set; without parts when its shard could not be read."""

    id: int
    parts: list[Part]


@dataclass(frozen=True)
class Confusion:
    """Two pairs that share a batch."""

    pairs: tuple[Pair, Pair]
    own: Sequence[float] | None
    """u_k.v_k and u_l.v_l; None when no similarities are known."""

    across: Sequence[float] | None
    """u_k.v_l and u_l.v_k."""


@dataclass(frozen=True)
class Example:
    """A batch to look at."""

    kind: str
    batch: int
    loss: float | None
    confusions: list[Confusion]


@dataclass(frozen=True)
class Gallery:
    """The examples of one run, from its last schedule that has some."""

    round: int
    strategy: str
    examples: list[Example]
    note: str
    """Why similarities or contents are missing; empty when nothing is."""


def gather_examples(record: Record) -> Gallery | None:
    """The batches to look at of a run; None before it has a schedule.

    Raises:
        ArtifactError: its schedule is damaged.
    """
    if not record.manifests:
        return None
    notes = []
    strategies = {manifest["round"]: manifest["strategy"] for manifest in record.manifests}
    measured = strategies.keys() & record.examples.keys()
    number = max(measured or strategies)
    if measured:
        values = record.examples[number]
    else:
        values = [_first_batch(record, number)]
        notes.append(
            "It was made without embeddings, so no similarities are known: pairs as they come."
        )
    ids = [i for value in values for confusion in value["confusions"] for i in confusion["ids"]]
    try:
        pairs = _read_pairs(record, ids)
    except ArtifactError as error:
        pairs = {pair_id: Pair(pair_id, []) for pair_id in ids}
        notes.append(f"The contents cannot be shown: {error}")
    examples = [_example(value, pairs) for value in values]
    return Gallery(number, strategies[number], examples, " ".join(notes))


def _first_batch(record: Record, number: int) -> dict[str, Any]:
    """The beginning of the first batch of a schedule, in the form of `selection.examples`."""
    schedule = open_schedule(schedule_folder(record.dir.schedules, number))
    ids = schedule.batches[0][: 2 * _NUM_UNMEASURED].tolist()
    couples = zip(ids[::2], ids[1::2], strict=False)
    return {"kind": "first", "batch": 0, "confusions": [{"ids": couple} for couple in couples]}


def _example(value: dict[str, Any], pairs: dict[int, Pair]) -> Example:
    confusions = []
    for confusion in value["confusions"]:
        k, l = confusion["ids"]  # noqa: E741
        own, across = confusion.get("own"), confusion.get("across")
        confusions.append(Confusion((pairs[k], pairs[l]), own, across))
    return Example(value["kind"], value["batch"], value.get("loss"), confusions)


def _read_pairs(record: Record, ids: Iterable[int]) -> dict[int, Pair]:
    """The pairs by id."""
    distinct = sorted(set(ids))
    index = ShardIndex.open(record.dir.index("train"), hashes=False)
    samples = index.read(np.array(distinct, np.int64))
    index.close()
    encoder = record.config.encoder
    names = list(dict.fromkeys((encoder.u_part, encoder.v_part)))  # single-view data has one
    return {
        i: Pair(i, [show_part(name, sample[name]) for name in names])
        for i, sample in zip(distinct, samples, strict=True)
    }


def show_part(name: str, data: bytes) -> Part:
    """What a page shows of one part of a sample.

    Args:
        name: its extension in the shard.
        data: its bytes, whatever they are.
    """
    for magic, kind in _IMAGES.items():
        if data.startswith(magic) and len(data) <= _MOST_IMAGE_BYTES:
            return Part(
                name, "", image=f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
            )
    if b"\0" in data:
        return Part(name, f"{len(data):,} bytes that are no text")
    text = data.decode(errors="replace").strip("\n")
    head = "\n".join(text.splitlines()[:_HEAD_LINES])[:_HEAD_CHARS]
    if head == text:
        return Part(name, head)
    cut = f"\n… {len(text) - _MOST_CHARS:,} more characters" if len(text) > _MOST_CHARS else ""
    return Part(name, head + " …", text=text[:_MOST_CHARS] + cut)
