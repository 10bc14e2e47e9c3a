"""Pairs in memory, and a small encoder made from them."""

import random
from pathlib import Path

import numpy as np
import pytest

from selection.progress import silent
from trainer.config import TextTransformerConfig
from trainer.encoders import prepare_encoder


class Pairs:
    """A `PairReader` over a list; records what it was asked for."""

    def __init__(self, texts: list[tuple[bytes, bytes]]) -> None:
        self.samples = [
            {"__key__": f"{number:06d}", "txt": u, "py": v} for number, (u, v) in enumerate(texts)
        ]
        self.content_hash = "of-the-pairs"
        self.reads: list[list[int]] = []

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, ids: np.ndarray) -> list[dict]:
        self.reads.append(ids.tolist())
        return [dict(self.samples[number]) for number in ids]


@pytest.fixture(scope="session")
def texts() -> list[tuple[bytes, bytes]]:
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefgh", k=rng.randint(2, 6))) for _ in range(200)]

    def sentence(most: int) -> bytes:
        return " ".join(rng.choices(words, k=rng.randint(1, most))).encode()

    return [(sentence(8), sentence(20)) for _ in range(64)]


@pytest.fixture
def pairs(texts: list[tuple[bytes, bytes]]) -> Pairs:
    return Pairs(texts)


@pytest.fixture(scope="session")
def encoder_config() -> TextTransformerConfig:
    return TextTransformerConfig(
        u_max_tokens=12, v_max_tokens=20, vocab_size=400, width=32, num_layers=2, dim=16
    )


@pytest.fixture(scope="session")
def encoder_folder(
    texts: list[tuple[bytes, bytes]],
    encoder_config: TextTransformerConfig,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp("made") / "encoder"
    prepare_encoder(encoder_config, Pairs(texts), folder, silent)
    return folder
