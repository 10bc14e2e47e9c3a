"""The text side of an encoder: a byte-level BPE vocabulary of the training pairs, and pairs as token ids.

Byte-level, so that any language, code or broken UTF-8 has tokens and none is unknown. Training looks at no more than
`MAX_TRAINING_PAIRS` pairs, evenly spaced in id order: a vocabulary gains nothing from 10^8 pairs, and reading them
would take longer than training. The same pairs give the same file, byte for byte.

Memory: the distinct words of the texts read, plus one chunk of pairs.

Legend: b pairs, t tokens of the longest text.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from selection.artifacts import atomic_folder, has_manifest, read_manifest, write_manifest
from selection.errors import ArtifactError
from selection.progress import Progress
from selection.shards import Sample
from trainer.encoder_config import TextTowerConfig, TextTransformerConfig
from trainer.encoders import Batch, PairReader, Side
from trainer.views import Draw

KIND = "encoder"
PAD_ID = 0
EMPTY_ID = 1
MAX_TRAINING_PAIRS = 500_000

_SPECIAL_TOKENS = ["<pad>", "<empty>"]  # in the order of PAD_ID and EMPTY_ID
_FILE = "tokenizer.json"
_CHUNK_PAIRS = 1024
_PAD_MULTIPLE = 8
_MAX_BYTES_PER_TOKEN = 16
_USUAL_BYTES_PER_TOKEN = 6


@dataclass(frozen=True)
class TextPart:
    """A text of each sample, as far as an encoder reads it."""

    part: str
    max_tokens: int

    def of(self, sample: Sample, side: Side) -> str:
        """The text.

        Raises:
            ArtifactError: the sample lacks it.
        """
        return decode(read_part(sample, self.part, side), self.max_tokens)


@dataclass(frozen=True)
class PairTokenizer:
    """Turns samples into token ids; a plain value that reader processes get a copy of.

    Attributes:
        tokenizer: the vocabulary.
        parts: the text that each side reads.
    """

    tokenizer: Tokenizer
    parts: dict[Side, TextPart]

    def __call__(self, samples: Sequence[Sample], draw: Draw | None = None) -> Batch:
        """Token ids of both sides; there are no random views.

        Raises:
            ArtifactError: a sample lacks a part.
        """
        return {
            side: self.tokenize(side, [read_part(sample, text.part, side) for sample in samples])
            for side, text in self.parts.items()
        }

    def tokenize(self, side: Side, texts: Sequence[bytes]) -> Int64[Tensor, "b t"]:
        """Token ids, padded with `PAD_ID` to the longest text, rounded up to whole vector registers.

        A text without any token becomes the one token `EMPTY_ID`, so that each row has something to average.
        """
        limit = self.parts[side].max_tokens
        beginnings = [beginning(text, limit) for text in texts]
        rows = self._encode(beginnings, limit)
        short = [
            number
            for number, (row, read, text) in enumerate(zip(rows, beginnings, texts, strict=True))
            if len(row) < limit and len(read) < len(text)
        ]
        for number, row in zip(
            short, self._encode([texts[number] for number in short], limit), strict=True
        ):
            rows[number] = row
        return pad(rows, limit, PAD_ID)

    def _encode(self, texts: Sequence[bytes], limit: int) -> list[list[int]]:
        encodings = self.tokenizer.encode_batch_fast([decode(text, limit) for text in texts])
        return [encoding.ids[:limit] for encoding in encodings]


def pad(rows: Sequence[list[int]], limit: int, pad_id: int) -> Int64[Tensor, "b t"]:
    """Token ids as one tensor, as `PairTokenizer.tokenize` says; no row is longer than `limit`."""
    rows = [row or [EMPTY_ID] for row in rows]
    longest = max(map(len, rows))
    width = min(-longest // _PAD_MULTIPLE * -_PAD_MULTIPLE, limit)
    token_ids = np.full((len(rows), width), pad_id, dtype=np.int64)
    for row, ids in zip(token_ids, rows, strict=True):
        row[: len(ids)] = ids
    return torch.from_numpy(token_ids)


def prepare_tokenizer(
    config: TextTransformerConfig, index: PairReader, folder: Path, progress: Progress
) -> None:
    """Train the vocabulary on the pairs of `index`, unless `folder` holds it already.

    Raises:
        ArtifactError: `folder` was made from other pairs or settings, or a pair lacks a part.
    """
    fields = {"index_hash": index.content_hash, **_settings(config)}
    if has_manifest(folder):
        read_manifest(folder, KIND, fields)
        return
    tokenizer = train_tokenizer(config, _text_parts(config), index, progress)
    with atomic_folder(folder) as temporary:
        tokenizer.save(str(temporary / _FILE))
        write_manifest(temporary, KIND, [_FILE], fields)


def open_tokenizer(config: TextTransformerConfig, folder: Path) -> PairTokenizer:
    """Open what `prepare_tokenizer` made.

    Raises:
        ArtifactError: it is incomplete, altered or of other settings.
    """
    read_manifest(folder, KIND, _settings(config))
    return PairTokenizer(Tokenizer.from_file(str(folder / _FILE)), _text_parts(config))


def _text_parts(config: TextTransformerConfig) -> dict[Side, TextPart]:
    return {
        "u": TextPart(config.u_part, config.u_max_tokens),
        "v": TextPart(config.v_part, config.v_max_tokens),
    }


def train_tokenizer(
    config: TextTransformerConfig | TextTowerConfig,
    parts: Mapping[Side, TextPart],
    index: PairReader,
    progress: Progress,
) -> Tokenizer:
    """Train a byte-level BPE vocabulary.

    Args:
        config: size of the vocabulary, and what it takes for a word.
        parts: the texts to train on.
        index: the training pairs.
        progress: told how many pairs have been read.
    """
    tokenizer = Tokenizer(models.BPE())
    if config.split_words:
        _split_words(tokenizer)
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        special_tokens=_SPECIAL_TOKENS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        max_token_length=_MAX_BYTES_PER_TOKEN,
        show_progress=False,
    )
    tokenizer.train_from_iterator(_training_texts(parts, index, progress), trainer)
    return _reading_names_as_text(tokenizer)


def _reading_names_as_text(tokenizer: Tokenizer) -> Tokenizer:
    """The same vocabulary, in which the names of its special tokens are text like any other.

    They stay in it, but no text becomes one: `<pad>` in a caption would be taken for padding.
    """
    parts = json.loads(tokenizer.to_str())
    return Tokenizer.from_str(json.dumps({**parts, "added_tokens": []}))


def _split_words(tokenizer: Tokenizer) -> None:
    """Make words of identifiers, drop white space and case: `read_file` and `Read File` become equal."""
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Replace(Regex("(?<=[a-z0-9])(?=[A-Z])"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[_\s]+"), "removed"),
            pre_tokenizers.Punctuation("isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def limit_threads(num_threads: int) -> None:
    """Let torch and tokenizers use `num_threads` threads in this process; call it before either has worked."""
    torch.set_num_threads(num_threads)
    os.environ["RAYON_NUM_THREADS"] = str(num_threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if num_threads > 1 else "false"


def read_part(sample: Sample, part: str, side: Side) -> bytes:
    """The bytes of one part of a sample.

    Raises:
        ArtifactError: the sample has no such part.
    """
    if part in sample:
        return sample[part]
    found = ", ".join(sorted(name for name in sample if name != "__key__")) or "none"
    raise ArtifactError(
        f"sample {sample['__key__']!r}: found parts {found}, expected {part!r} for side {side}; "
        f"let {side} read a part that every sample has, or leave this sample out"
    )


def _training_texts(
    parts: Mapping[Side, TextPart], index: PairReader, progress: Progress
) -> Iterator[str]:
    stride = -(-len(index) // MAX_TRAINING_PAIRS)
    ids = np.arange(0, len(index), stride)
    for start in range(0, len(ids), _CHUNK_PAIRS):
        progress("tokenizer", start, len(ids))
        for sample in index.read(ids[start : start + _CHUNK_PAIRS]):
            for side, text in parts.items():
                yield text.of(sample, side)
    progress("tokenizer", len(ids), len(ids))


def decode(text: bytes, max_tokens: int) -> str:
    """As much of a text as can matter."""
    # Texts can be whole files; what lies beyond max_tokens of our longest tokens would be read only after white space
    # that has no tokens.
    return text[: max_tokens * _MAX_BYTES_PER_TOKEN].decode("utf-8", errors="replace")


def beginning(text: bytes, max_tokens: int) -> bytes:
    """The first words of a text, usually all that `max_tokens` can hold; the text, if it is no longer than that.

    No token reaches over white space, so these words have the tokens that they have in the whole text.
    """
    num_bytes = max_tokens * _USUAL_BYTES_PER_TOKEN
    if len(text) <= num_bytes:
        return text
    # The last word may be cut off; of white space alone there is none.
    words = text[:num_bytes].rsplit(None, 1)
    return words[0] if len(words) == 2 else b""


def _settings(config: TextTransformerConfig) -> dict[str, Any]:
    names = {
        "name",
        "vocab_size",
        "split_words",
        "u_part",
        "v_part",
        "u_max_tokens",
        "v_max_tokens",
    }
    return {"encoder": config.model_dump(include=names)}
