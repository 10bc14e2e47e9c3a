"""The embeddings of a run: computed with a checkpoint, or collected from training."""

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from launcher.placement import on_nodes
from launcher.run_state import Run
from selection.collected import collected_folder, gather_collected
from selection.embed import Source, embed_datasets
from selection.embeddings import EmbeddingStore, load_embeddings
from selection.ray_tasks import ray_map
from selection.select import Embeddings
from trainer.checkpoint import Checkpoint
from trainer.embedder import CheckpointEmbedder


def gather(run: Run, round_number: int, checkpoint: Checkpoint) -> None:
    """Bring the embeddings of the training pairs by a checkpoint of a round into its store."""
    if not run.config.selection.collects:
        embed(run, ["train"], round_number, checkpoint)
        return
    encoder = run.config.encoder
    folder = collected_folder(run.dir.all_embeddings, round_number)
    gather_collected(
        run.indexes["train"],
        run.dir.index("train"),
        folder,
        _store(run, "train", round_number, checkpoint),
        (encoder.u_part, encoder.v_part),
        partial(_map_looking_around, run),
        run.progress,
    )
    shutil.rmtree(folder, ignore_errors=True)


def _map_looking_around(run: Run, function: Callable, tasks: Iterable[Any]) -> Iterator[Any]:
    placement = on_nodes(run.config.ray.selection_labels)
    for result in ray_map(function, tasks, placement=placement):
        run.look_around()
        yield result


def _store(run: Run, split: str, round_number: int, checkpoint: Checkpoint) -> EmbeddingStore:
    index = run.indexes[split]
    return EmbeddingStore(
        run.dir.embeddings(split, round_number),
        shard_sizes=np.diff(index.shard_starts).tolist(),
        inputs={
            "index": index.content_hash,
            "checkpoint": checkpoint.weights_hash,
            "dtype": run.config.selection.embed.dtype,
        },
    )


def embedded(
    run: Run, splits: Sequence[str], round_number: int, checkpoint: Checkpoint
) -> dict[str, Embeddings]:
    """U and V of each split, by a checkpoint of a round."""
    embed(run, splits, round_number, checkpoint)
    return {split: load_embeddings(run.dir.embeddings(split, round_number)) for split in splits}


def embed(run: Run, splits: Sequence[str], round_number: int, checkpoint: Checkpoint) -> None:
    """Embed splits with a checkpoint into the stores of a round."""
    config = run.config
    make_embedder = partial(
        CheckpointEmbedder,
        config.encoder,
        run.dir.encoder,
        checkpoint.folder,
        device="cuda" if config.selection.embed.gpus_per_worker else "cpu",
        num_threads=max(1, int(config.selection.embed.cpus_per_worker)),
        precision=config.selection.embed.precision,
    )
    embed_datasets(
        [
            Source(run.dir.index(split), _store(run, split, round_number, checkpoint))
            for split in splits
        ],
        make_embedder,
        config.selection.embed,
        run.progress,
        stage=f"embed {', '.join(splits)}",
        placement=on_nodes(config.ray.selection_labels),
        while_waiting=run.look_around,
    )
