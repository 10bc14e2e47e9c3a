"""Search the held-out pairs of a finished run: a text in, the most similar second parts out."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from launcher.run_dir import open_run, read_lines
from selection.artifacts import has_manifest
from selection.embeddings import load_embeddings
from selection.errors import ConfigError
from selection.shards import ShardIndex
from trainer.checkpoint import checkpoint_folder, open_checkpoint
from trainer.config import TowersConfig
from trainer.embedder import CheckpointEmbedder

_PREVIEW_LINES = 6


@dataclass(frozen=True)
class Hit:
    """One held-out pair that was found."""

    similarity: float
    source: dict[str, Any]
    """The sample's `.json` member, where it has one; its key otherwise."""
    text: str


def search(root: Path, queries: Sequence[str], top: int) -> list[list[Hit]]:
    """The `top` held-out pairs for each query, most similar first.

    Raises:
        ConfigError: `root` is no run, has not finished a round, or its u is no text.
    """
    run_dir, config = open_run(root)
    if isinstance(config.encoder, TowersConfig) and config.encoder.u.tower == "image":
        raise ConfigError(
            f"{root}: u of this run reads pictures, but a query is a text; search a run whose u is a text"
        )
    results = read_lines(run_dir.results)
    if not results:
        raise ConfigError(f"{root}: no round is finished yet; `coterie run` goes on with it")
    last = max(results, key=lambda result: result["round"])
    folder = checkpoint_folder(run_dir.checkpoints, last["step"])
    if not has_manifest(folder):
        raise ConfigError(
            f"{folder}: is gone, as training went on after the last round that was judged; search again after the next"
        )
    open_checkpoint(folder, config.hash, hashes=False)
    _, V = load_embeddings(run_dir.embeddings("heldout", last["round"]))
    index = ShardIndex.open(run_dir.index("heldout"))
    embedder = CheckpointEmbedder(config.encoder, run_dir.encoder, folder)  # it made V as well
    similarities = embedder.embed("u", [os.fsencode(query) for query in queries]) @ V.T
    best = np.argsort(-similarities, axis=1, kind="stable")[:, :top]
    return [
        [
            _hit(similarity, sample, config.encoder.v_part)
            for similarity, sample in zip(row[ids], index.read(ids), strict=True)
        ]
        for row, ids in zip(similarities, best, strict=True)
    ]


def _hit(similarity: float, sample: dict, part: str) -> Hit:
    return Hit(float(similarity), _source_of(sample), _text_of(sample, part))


def _source_of(sample: dict) -> dict[str, Any]:
    """What the `.json` member says, if it is an object; it may be anything, as it is the user's."""
    try:
        source = json.loads(sample.get("json", b""))
    except ValueError:
        source = None
    return source if isinstance(source, dict) else {"key": sample["__key__"]}


def _text_of(sample: dict, part: str) -> str:
    """What was found, as text: an image is shown by its caption, where it has one."""
    content = sample[part]
    if b"\0" in content:  # the sign by which git tells binary files
        content = sample.get("txt", f"{part}, {len(content):,} bytes".encode())
    return content.decode(errors="replace")


def describe(query: str, hits: Sequence[Hit]) -> str:
    """What the terminal shows for one query."""
    lines = [f'"{_printable(query)}"']
    for place, hit in enumerate(hits, start=1):
        where = str(hit.source.get("qualname") or hit.source.get("key", ""))
        if "path" in hit.source:
            where += f"  {hit.source['path']}:{hit.source.get('line', 1)}"
        lines.append(f"  {place}. {hit.similarity:.3f}  {_printable(where)}")
        preview = [line for line in hit.text.splitlines() if line.strip()][:_PREVIEW_LINES]
        lines += [f"         {_printable(line[:100])}" for line in preview]
    return "\n".join(lines)


def _printable(line: str) -> str:
    """Without what would steer a terminal, or cannot be written to one; a data set may hold anything."""
    return "".join(c if c.isprintable() else "\ufffd" for c in line.expandtabs())
