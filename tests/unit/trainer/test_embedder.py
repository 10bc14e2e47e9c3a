import math

import numpy as np
import pytest
import torch

from selection.artifacts import write_manifest
from selection.errors import ArtifactError
from trainer.checkpoint import WEIGHTS
from trainer.config import TrainConfig
from trainer.embedder import CheckpointEmbedder
from trainer.model import build_model


@pytest.fixture
def config(encoder_config):
    """With dropout, which no embedding may have."""
    return encoder_config.model_copy(update={"dropout": 0.4})


@pytest.fixture
def model(config, encoder_folder):
    return build_model(config, encoder_folder, TrainConfig(), seed=1)


@pytest.fixture
def checkpoint(model, tmp_path):
    torch.save(model.state_dict(), tmp_path / WEIGHTS)
    write_manifest(tmp_path, "checkpoint", [WEIGHTS], {"temperature": 0.07})
    return tmp_path


def embed(embedder, samples):
    return embedder.embed_batch(embedder.collate(samples))


def test_it_embeds_as_the_model_does(model, checkpoint, config, encoder_folder, pairs):
    embedder = CheckpointEmbedder(config, encoder_folder, checkpoint)
    U, V = embed(embedder, pairs.samples[:7])
    assert U.dtype == V.dtype == np.float32
    u, v = model.eval().encoder(model.encoder.collate(pairs.samples[:7]))
    assert np.array_equal(U, u.detach().numpy())
    assert np.array_equal(V, v.detach().numpy())
    assert math.isclose(embedder.temperature, 0.07)
    assert embedder.parts == (config.u_part, config.v_part)


def test_bfloat16_weights_are_computed_with_in_float32(
    model, checkpoint, config, encoder_folder, pairs
):
    exact, _ = embed(CheckpointEmbedder(config, encoder_folder, checkpoint), pairs.samples)
    torch.save(model.bfloat16().state_dict(), checkpoint / WEIGHTS)
    write_manifest(checkpoint, "checkpoint", [WEIGHTS], {"temperature": 0.07})
    rounded, _ = embed(CheckpointEmbedder(config, encoder_folder, checkpoint), pairs.samples)
    assert 0 < np.abs(exact - rounded).max() < 0.05
    np.testing.assert_allclose(np.linalg.norm(rounded, axis=1), 1, atol=1e-6)


def test_products_in_bfloat16_and_rows_in_float32(checkpoint, config, encoder_folder, pairs):
    exact, short = (
        CheckpointEmbedder(config, encoder_folder, checkpoint, precision=precision)
        for precision in ("float32", "bfloat16")
    )
    for expected, found in zip(
        embed(exact, pairs.samples), embed(short, pairs.samples), strict=True
    ):
        assert found.dtype == np.float32
        assert 0 < np.abs(expected - found).max() < 0.05
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    texts = [b"open a file", b"close it"]
    assert 0 < np.abs(exact.embed("u", texts) - short.embed("u", texts)).max() < 0.05


def test_an_incomplete_checkpoint_is_refused(checkpoint, config, encoder_folder):
    (checkpoint / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match="complete checkpoint"):
        CheckpointEmbedder(config, encoder_folder, checkpoint)
