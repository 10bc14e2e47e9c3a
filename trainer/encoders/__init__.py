"""Encoders: what turns the two sides of a pair into two points on the unit sphere.

An encoder is a module with a name in `EncoderConfig`. Whatever it needs before training, such as a tokenizer, is
made once by `prepare_encoder` and lies in a folder that every rank and every embedding worker opens.

To add one: a settings class in `trainer/encoder_config.py`, a module with `prepare` and `build` in this folder, and a
line in `_MODULES`.

Legend: b pairs, d dims.
"""

import importlib
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from selection.progress import Progress
from selection.shards import Sample
from trainer.config import EncoderConfig
from trainer.views import Draw

Side = Literal["u", "v"]

Batch = dict[Side, Tensor]
"""The inputs of b pairs, by side; row i of both belongs to pair i."""

_MODULES = {
    "text_transformer": "trainer.encoders.text_transformer",
    "towers": "trainer.encoders.towers",
}


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on a device; from pinned memory, nobody waits for the copy."""
    return {side: inputs.to(device, non_blocking=True) for side, inputs in batch.items()}


class Collate(Protocol):
    """Turns samples into a batch of CPU tensors; picklable."""

    def __call__(self, samples: Sequence[Sample], draw: Draw | None = None) -> Batch:
        """Make the batch of `samples`, in that order.

        Args:
            samples: of the data set.
            draw: in training, which random views to take, for encoders that take any. None, for selection and
                retrieval, takes the samples as they are, or, where both sides are views of one part, two views that
                are the same in every round.
        """
        ...


class PairReader(Protocol):
    """The data set by id; `selection.shards.ShardIndex` is one."""

    content_hash: str

    def __len__(self) -> int:
        """Number of pairs."""
        ...

    def read(self, ids: Int64[np.ndarray, "b"]) -> list[Sample]:
        """The samples of `ids`, in that order."""
        ...


class Encoder(nn.Module):
    """Base of all encoders.

    Attributes:
        dim: d, size of the embeddings.
        collate: turns samples into a batch of CPU tensors. A value of its own, not a method, because processes
            that read ahead get a pickled copy of it and have no use for the weights.
    """

    dim: int
    collate: Collate

    @abstractmethod
    def to_inputs(self, side: Side, parts: Sequence[bytes]) -> Tensor:
        """Turn raw parts into what `embed` takes, as `collate` does; for queries from outside the data set."""

    @abstractmethod
    def embed(self, side: Side, inputs: Tensor) -> Float[Tensor, "b d"]:
        """Embed one side; rows are float32 and have length 1."""

    def forward(self, batch: Batch) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b d"]]:
        """Embed both sides.

        Training comes through here and not through `embed`, because ZeRO stage 3 brings a module's weights
        together when its `forward` is called.
        """
        return self.embed("u", batch["u"]), self.embed("v", batch["v"])


def prepare_encoder(
    config: EncoderConfig, index: PairReader, folder: Path, progress: Progress
) -> None:
    """Make what the encoder needs before training, unless `folder` holds it already.

    Args:
        config: settings of the encoder.
        index: the training pairs.
        folder: the artifact.
        progress: told how many pairs have been read.

    Raises:
        ArtifactError: `folder` was made from other pairs or settings, or a pair lacks a part.
    """
    _module(config).prepare(config, index, folder, progress)


def build_encoder(config: EncoderConfig, folder: Path) -> Encoder:
    """Build an encoder with fresh weights, which depend on torch's random state alone.

    Args:
        config: settings of the encoder.
        folder: what `prepare_encoder` made.

    Raises:
        ArtifactError: `folder` is incomplete, altered or of other settings.
    """
    return _module(config).build(config, folder)


def _module(config: EncoderConfig) -> Any:
    return importlib.import_module(_MODULES[config.name])
