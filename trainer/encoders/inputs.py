"""From samples to what towers take: pixels of images, token ids of texts, of the samples or of random views of them.

Plain values that reader processes get a copy of. Images travel as bytes and become floats in the tower: a quarter of
the memory and of the traffic to a GPU.

Pillow is held to formats that are pixels and nothing else; among the others are some that run programs (EPS).

Legend: b pairs, t tokens of the longest text, s height and width.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from PIL import Image, ImageOps
from tokenizers import Tokenizer
from torch import Tensor

from selection.errors import ArtifactError
from selection.shards import Sample
from trainer.encoder_config import ImageTowerConfig, TextTowerConfig
from trainer.encoders import Batch, Side
from trainer.encoders.tokenizer import decode, pad, read_part
from trainer.views import FIXED_DRAW, Draw, code, images, view_generator

NO_TOKEN = -1
"""Fills rows of token ids up; no vocabulary has it."""

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "PPM")


class Item(NamedTuple):
    """One side of one pair.

    Attributes:
        key: of its sample.
        content: the bytes of the part.
        rng: of a random view; None takes the content as it is.
    """

    key: str
    content: bytes
    rng: np.random.Generator | None


class Input(Protocol):
    """Turns one side of some pairs into a tensor."""

    def __call__(self, items: Sequence[Item]) -> Tensor:
        """A row for each item."""
        ...


@dataclass(frozen=True)
class ImageInput:
    """Decodes images and brings them to one size."""

    config: ImageTowerConfig

    def __call__(self, items: Sequence[Item]) -> UInt8[Tensor, "b 3 s s"]:
        """See `Input`.

        Raises:
            ArtifactError: a part is no image.
        """
        pixels = np.stack([np.asarray(self._image(item)) for item in items])  # pixels: (b, s, s, 3)
        return torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())

    def _image(self, item: Item) -> Image.Image:
        size, views = self.config.size, self.config.views
        image = read_image(item.content, item.key)
        if views and item.rng:
            return images.random_view(image, size, views, item.rng)
        return ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)


def read_image(content: bytes, key: str) -> Image.Image:
    """An image in RGB.

    Args:
        content: the bytes of a file.
        key: of the sample, for the message.

    Raises:
        ArtifactError: it is no image, is cut off, or would take an absurd amount of memory.
    """
    try:
        image = Image.open(io.BytesIO(content), formats=_FORMATS)
        return _in_8_bits(image).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise ArtifactError(
            f"sample {key!r}: found no image of a format among {', '.join(_FORMATS)} that can be decoded; "
            "let the side read another part, or leave this sample out"
        ) from None


def _in_8_bits(image: Image.Image) -> Image.Image:
    """The high bytes of grey in 16 bits, whose values Pillow would cut off at 255."""
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).astype(np.uint8))


@dataclass(frozen=True)
class TextInput:
    """Tokenizes texts; special tokens, where the tokenizer has any, survive the cut to `max_tokens`."""

    config: TextTowerConfig
    tokenizer: Tokenizer

    def __call__(self, items: Sequence[Item]) -> Int64[Tensor, "b t"]:
        """See `Input`; rows are filled up with `NO_TOKEN`."""
        encodings = self.tokenizer.encode_batch_fast([self._text(item) for item in items])
        ids = [encoding.ids for encoding in encodings]
        return pad(ids, self.config.max_tokens, NO_TOKEN)

    def _text(self, item: Item) -> str:
        text, views = decode(item.content, self.config.max_tokens), self.config.views
        return code.random_view(text, views, item.rng) if views and item.rng else text


@dataclass(frozen=True)
class SideInput:
    """What one side reads, and how."""

    part: str
    to_tensor: Input


@dataclass(frozen=True)
class PairInput:
    """The collate function of towers.

    Attributes:
        sides: of a pair.
        is_single_view: whether both sides read the same part.
    """

    sides: dict[Side, SideInput]
    is_single_view: bool

    def __call__(self, samples: Sequence[Sample], draw: Draw | None = None) -> Batch:
        """See `trainer.encoders.Collate`.

        Raises:
            ArtifactError: a sample lacks a part, or a part cannot be read.
        """
        if draw is None and self.is_single_view:
            draw = FIXED_DRAW
        return {side: self._tensor(side, samples, draw) for side in self.sides}

    def _tensor(self, side: Side, samples: Sequence[Sample], draw: Draw | None) -> Tensor:
        reads = self.sides[side]
        keys = [sample["__key__"] for sample in samples]
        rngs = [None if draw is None else view_generator(draw, key, side) for key in keys]
        contents = [read_part(sample, reads.part, side) for sample in samples]
        return reads.to_tensor([Item(*item) for item in zip(keys, contents, rngs, strict=True)])
