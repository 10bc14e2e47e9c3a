import pytest
import torch
from torch.nn import functional as F

from trainer.encoders import build_encoder
from trainer.encoders.tokenizer import PAD_ID


@pytest.fixture
def encoder(encoder_config, encoder_folder):
    torch.manual_seed(0)
    return build_encoder(encoder_config, encoder_folder)


def reference_embed(encoder, side_id, ids):
    """One text at a time, without padding, with plain attention."""
    rows = []
    for row in ids:
        row = row[row != PAD_ID]
        x = (
            encoder.tokens(row)
            + encoder.positions.weight[: len(row)]
            + encoder.sides.weight[side_id]
        )
        for block in encoder.blocks:
            query, key, value = block.qkv(block.attention_norm(x)).chunk(3, dim=1)
            heads = []
            for q, k, v in zip(
                *(m.chunk(block.num_heads, dim=1) for m in (query, key, value)), strict=True
            ):
                heads.append(torch.softmax(q @ k.T / q.shape[1] ** 0.5, dim=1) @ v)
            x = x + block.out(torch.cat(heads, dim=1))
            x = x + block.down(F.gelu(block.up(block.mlp_norm(x))))
        rows.append(encoder.projection(encoder.norm(x).mean(0)))
    return F.normalize(torch.stack(rows), dim=1)


@pytest.mark.parametrize(("side", "side_id"), [("u", 0), ("v", 1)])
def test_packed_equals_one_text_at_a_time_with_gradients(encoder, pairs, side, side_id):
    # float64, where a mistake cannot hide behind rounding
    encoder.double()
    ids = encoder.collate(pairs.samples[:9])[side]
    weight = torch.randn(9, encoder.dim, dtype=torch.float64)

    gradients, values = [], []
    for embed in (lambda: encoder.embed(side, ids), lambda: reference_embed(encoder, side_id, ids)):
        encoder.zero_grad(set_to_none=True)
        embeddings = embed()
        (embeddings * weight).sum().backward()
        values.append(embeddings)
        gradients.append({n: p.grad for n, p in encoder.named_parameters() if p.grad is not None})
    # the last step is in float32 by design, hence not tighter
    torch.testing.assert_close(values[0].double(), values[1], rtol=0, atol=1e-6)
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-4, atol=1e-6, msg=name)


def test_embeddings_lie_on_the_unit_sphere_in_float32(encoder, pairs):
    for model in (encoder, encoder.bfloat16()):
        u, v = model(encoder.collate(pairs.samples))
        assert u.dtype == v.dtype == torch.float32
        assert u.shape == v.shape == (64, encoder.dim)
        for side in (u, v):
            torch.testing.assert_close(side.norm(dim=1), torch.ones(64), rtol=0, atol=1e-6)


def test_a_text_does_not_depend_on_its_neighbours(encoder, pairs):
    together = encoder(encoder.collate(pairs.samples))[1]
    alone = torch.cat([encoder(encoder.collate([sample]))[1] for sample in pairs.samples])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_an_empty_text_has_an_embedding(encoder):
    embeddings = encoder.embed("u", encoder.to_inputs("u", [b"", b"a b"]))
    assert torch.isfinite(embeddings).all()
    assert not torch.allclose(embeddings[0], embeddings[1])


def test_the_sides_differ(encoder):
    ids = encoder.to_inputs("u", [b"abc de"])
    assert not torch.allclose(encoder.embed("u", ids), encoder.embed("v", ids))


def test_weights_depend_on_the_seed_alone(encoder_config, encoder_folder):
    def weights(seed):
        torch.manual_seed(seed)
        return torch.cat(
            [p.flatten() for p in build_encoder(encoder_config, encoder_folder).parameters()]
        )

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_dropout_acts_in_training_only(encoder_config, encoder_folder, pairs):
    encoder = build_encoder(encoder_config.model_copy(update={"dropout": 0.5}), encoder_folder)
    batch = encoder.collate(pairs.samples[:4])
    assert not torch.equal(encoder(batch)[0], encoder(batch)[0])
    encoder.eval()
    assert torch.equal(encoder(batch)[0], encoder(batch)[0])
