"""Checkpoints: all that a run needs to go on, and what an embedding worker needs, in one folder per step.

    step-00000370/
        DeepSpeed's files, one or more per rank: weights, optimizer, learning-rate schedule
        model.pt         the whole weights in one file at any ZeRO stage, for readers without DeepSpeed
        manifest.json    position in the run, temperature, hashes; written last, so a folder with it is complete

A crash leaves a folder without a manifest. Readers pass it over, and a writer removes it before any rank writes.

Memory: rank 0 holds one copy of the weights while it saves; at ZeRO stage 3 every rank holds one whole parameter.
"""

import contextlib
import math
import shutil
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from selection.artifacts import MANIFEST, has_manifest, hash_file, read_manifest, write_manifest
from selection.errors import ArtifactError
from trainer.engine import Engine
from trainer.model import ContrastiveModel
from trainer.reshard import load_resharded

KIND = "checkpoint"
WEIGHTS = "model.pt"


@dataclass(frozen=True)
class Position:
    """Where a run is: the batch that it takes next.

    Attributes:
        round: the round of that batch.
        step_in_round: which batch of the round it is, counted over the round's epochs.
        step: batches taken so far in the whole run.
    """

    round: int = 0
    step_in_round: int = 0
    step: int = 0

    def next(self) -> "Position":
        """After one more batch of the same round."""
        return Position(self.round, self.step_in_round + 1, self.step + 1)

    def next_round(self) -> "Position":
        """At the start of the round after this one."""
        return Position(self.round + 1, 0, self.step)


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def position(self) -> Position:
        """Where the run goes on from here."""
        return Position(**{name: self.manifest[name] for name in asdict(Position())})

    @property
    def temperature(self) -> float:
        """What the model had learned."""
        return self.manifest["temperature"]

    @property
    def weights_hash(self) -> str:
        """Content hash of the weights; embeddings are stale when it changes."""
        return self.manifest["files"][WEIGHTS]["hash"]

    @property
    def schedule_hash(self) -> str:
        """Content hash of the schedule that was trained last; also of the next batch, inside a round."""
        return self.manifest["schedule_hash"]


def checkpoint_folder(folder: Path, step: int) -> Path:
    """The folder of the checkpoint after `step` batches."""
    return folder / f"step-{step:08d}"


def save(
    engine: Engine,
    folder: Path,
    position: Position,
    schedule_hash: str,
    config_hash: str,
) -> None:
    """Save a checkpoint; every rank calls this at the same step.

    Args:
        engine: model, optimizer and learning-rate schedule.
        folder: of all checkpoints of the run; the checkpoint gets a folder of its own inside.
        position: of the next batch.
        schedule_hash: content hash of the schedule that was trained last.
        config_hash: of the run's configuration.
    """
    target = checkpoint_folder(folder, position.step)
    is_writer = dist.get_rank() == 0
    if is_writer:
        _remove(target)
    dist.barrier()  # nobody writes into what a crashed attempt left behind
    fields = {**asdict(position), "schedule_hash": schedule_hash, "config_hash": config_hash}
    engine.save_checkpoint(str(folder), tag=target.name, client_state=fields, save_latest=False)
    weights = _gather_weights(engine)
    if is_writer:
        torch.save(weights, target / WEIGHTS)
    dist.barrier()  # every rank's files are there
    if is_writer:
        state = {
            "temperature": _temperature(engine.module, weights),
            "world_size": dist.get_world_size(),
            "zero_stage": engine.zero_optimization_stage(),
        }
        files = sorted(str(p.relative_to(target)) for p in target.rglob("*") if p.is_file())
        write_manifest(target, KIND, files, {**fields, **state})
    dist.barrier()  # a rank that is told of the checkpoint finds it


def load(engine: Engine, checkpoint: Checkpoint) -> None:
    """Put the engine where `checkpoint` was saved, by whatever number of ranks; every rank calls this.

    Raises:
        ArtifactError: DeepSpeed's files are those of another step.
    """
    saved, stage = checkpoint.manifest["world_size"], checkpoint.manifest["zero_stage"]
    folder, is_resharded = checkpoint.folder, stage and saved != dist.get_world_size()
    # From inside, as DeepSpeed takes paths for patterns, and a run_dir may have brackets.
    with contextlib.chdir(folder.parent):
        if is_resharded:
            fields = load_resharded(engine, Path(folder.name))
        else:
            _, fields = engine.load_checkpoint(".", tag=folder.name)
    if is_resharded:
        _load_buffers(engine.module, folder)
    if fields is None or fields["step"] != checkpoint.position.step:
        raise ArtifactError(
            f"{folder}: DeepSpeed's files are not of step {checkpoint.position.step}; delete the folder to go on "
            f"from the checkpoint before"
        )


def _load_buffers(model: ContrastiveModel, folder: Path) -> None:
    """What DeepSpeed's universal format leaves out, such as the statistics of batch norm."""
    buffers = dict(model.named_buffers())
    if saved := buffers.keys() & model.state_dict().keys():
        weights, _ = load_weights(folder)
        for name in saved:
            buffers[name].copy_(weights[name])


def latest_checkpoint(folder: Path, config_hash: str, hashes: bool = True) -> Checkpoint | None:
    """Find the newest complete checkpoint of a run.

    Args:
        folder: of all checkpoints of the run.
        config_hash: of the run's configuration.
        hashes: whether to hash the contents of its files; sizes are always compared.

    Raises:
        ArtifactError: it is altered, or was saved under another configuration.
    """
    complete = complete_checkpoints(folder)
    return open_checkpoint(complete[-1], config_hash, hashes) if complete else None


def open_checkpoint(folder: Path, config_hash: str, hashes: bool = True) -> Checkpoint:
    """Open and verify one checkpoint; arguments and errors as for `latest_checkpoint`."""
    manifest = read_manifest(folder, KIND, hashes=hashes)
    if manifest["config_hash"] != config_hash:
        raise ArtifactError(
            f"{folder}: saved by a run with configuration {manifest['config_hash']}, expected {config_hash}; "
            f"resume with the configuration of that run, or choose another run folder"
        )
    return Checkpoint(folder, manifest)


def complete_checkpoints(folder: Path) -> list[Path]:
    """Folders of the complete checkpoints of a run, oldest first."""
    return [path for path in sorted(folder.glob("step-*")) if has_manifest(path)]


def prune(folder: Path, keep: int, needed_steps: Collection[int] = ()) -> None:
    """Remove all but the newest `keep` complete checkpoints and those that are needed, and what crashes left behind.

    One rank calls this while no rank is saving.

    Args:
        folder: of all checkpoints of the run.
        keep: how many, at least one.
        needed_steps: steps of checkpoints that others may be reading.
    """
    complete = complete_checkpoints(folder)
    needed = {checkpoint_folder(folder, step) for step in needed_steps}
    kept = {*complete[-keep:], *needed.intersection(complete)}
    for path in folder.glob("step-*"):
        if path not in kept:
            _remove(path)


def load_weights(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the whole weights of the checkpoint in `folder`, on the CPU; DeepSpeed is not needed.

    Returns:
        The state of a `ContrastiveModel`, and the manifest.

    Raises:
        ArtifactError: the checkpoint is incomplete or its weights are altered.
    """
    # The optimizer's files are several times as large and of no interest here, so they are not hashed.
    manifest = read_manifest(folder, KIND, hashes=False)
    path, expected = folder / WEIGHTS, manifest["files"][WEIGHTS]["hash"]
    if (found := hash_file(path)) != expected:
        raise ArtifactError(
            f"{path}: found contents {found}, expected {expected}; delete {folder} and use an older checkpoint"
        )
    return torch.load(path, map_location="cpu", weights_only=True), manifest


def _gather_weights(engine: Engine) -> dict[str, Tensor]:
    """The whole weights on the CPU of rank 0, {} on the others; parameter by parameter."""
    import deepspeed

    is_sharded = engine.zero_optimization_stage() == 3
    weights: dict[str, Tensor] = {}
    for name, tensor in engine.module.state_dict(keep_vars=True).items():
        with deepspeed.zero.GatheredParameters([tensor], enabled=is_sharded):
            if dist.get_rank() == 0:
                weights[name] = tensor.detach().cpu().clone()
    return weights


def _temperature(model: ContrastiveModel, weights: Mapping[str, Tensor]) -> float:
    return math.exp(-min(float(weights["logit_scale"]), model.max_logit_scale))


def _remove(folder: Path) -> None:
    # The manifest first, so that a folder that is half gone is not taken for a checkpoint.
    (folder / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
