"""A small data set on disk with everything that a rank needs."""

import io
import random
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from selection.progress import silent
from selection.schedule import write_schedule
from selection.shards import ShardIndex, build_index
from trainer.config import OptimizerConfig, TextTransformerConfig, TrainConfig
from trainer.encoders import prepare_encoder
from trainer.length import RunLength
from trainer.worker import TrainJob, schedule_folder

NUM_PAIRS, BATCH_SIZE, NUM_ROUNDS, EPOCHS_PER_ROUND = 99, 16, 2, 2
LENGTH = RunLength(
    num_rounds=NUM_ROUNDS,
    epochs_per_round=EPOCHS_PER_ROUND,
    first_batches=NUM_PAIRS // BATCH_SIZE,
    later_batches=NUM_PAIRS // BATCH_SIZE,
)


@dataclass(frozen=True)
class Workshop:
    """The data, and jobs that train on it."""

    folder: Path
    index: ShardIndex
    encoder_config: TextTransformerConfig

    @property
    def encoder_folder(self) -> Path:
        return self.folder / "encoder"

    @property
    def schedules_folder(self) -> Path:
        return self.folder / "schedules"

    def job(self, name: str, **train: Any) -> TrainJob:
        """A job whose run has a folder of its own; `train` changes its training settings."""
        run = self.folder / name
        defaults = {
            "batch_size": BATCH_SIZE,
            "optimizer": OptimizerConfig(warmup_steps=4),
            "log_every_steps": 1,
            "checkpoint_every_steps": 5,
        }
        return TrainJob(
            encoder=self.encoder_config,
            train=TrainConfig(**{**defaults, **train}),
            seed=3,
            config_hash="of-the-test",
            index_folder=self.folder / "index",
            encoder_folder=self.encoder_folder,
            schedules_folder=self.schedules_folder,
            checkpoints_folder=run / "checkpoints",
            metrics_folder=run / "metrics",
            embeddings_folder=run / "embeddings",
            log_folder=run / "logs",
            first_round=0,
            stop_round=NUM_ROUNDS,
            length=LENGTH,
        )


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    folder = tmp_path_factory.mktemp("workshop")
    write_shard(folder / "pairs.tar")
    index = build_index([folder / "pairs.tar"], folder / "index")
    # 64 x 2,000 token embeddings are beyond the size up to which ZeRO stage 3 leaves a parameter whole.
    config = TextTransformerConfig(
        u_max_tokens=12, v_max_tokens=24, vocab_size=2000, width=64, num_layers=1, dim=32
    )
    made = Workshop(folder, index, config)
    prepare_encoder(config, index, made.encoder_folder, silent)
    for round_number in range(NUM_ROUNDS):
        ids = np.random.default_rng(round_number).permutation(NUM_PAIRS)
        batches = ids[: NUM_PAIRS // BATCH_SIZE * BATCH_SIZE].reshape(-1, BATCH_SIZE)
        write_schedule(
            schedule_folder(made.schedules_folder, round_number),
            batches,
            ids[batches.size :],
            {"seed": 3, "round": round_number, "strategy": "random"},
        )
    return made


def write_shard(path: Path) -> None:
    rng = random.Random(0)

    def sentence(most: int) -> str:
        words = ("".join(rng.choices("abcdefghijkl", k=6)) for _ in range(rng.randint(2, most)))
        return " ".join(words)

    with tarfile.open(path, "w") as tar:
        for number in range(NUM_PAIRS):
            u = sentence(8)
            for extension, text in (("txt", u), ("py", f"{u[:20]} {sentence(40)}")):
                info = tarfile.TarInfo(f"{number:04d}.{extension}")
                info.size = len(text)
                tar.addfile(info, io.BytesIO(text.encode()))
