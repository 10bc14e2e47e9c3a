import math

import pytest
import torch
from torch import nn

from trainer.config import TrainConfig
from trainer.model import ContrastiveModel, build_model


class Fixed(nn.Module):
    """An encoder whose embeddings are given."""

    def forward(self, batch):
        return batch["u"], batch["v"]


@pytest.fixture
def batch():
    return {"u": torch.eye(2), "v": torch.eye(2)}


def test_the_scale_is_one_over_the_temperature(batch):
    model = ContrastiveModel(Fixed(), initial_temperature=0.07, min_temperature=0.01)
    _, _, scale = model(batch)
    assert scale.shape == ()
    assert scale.item() == pytest.approx(1 / 0.07, rel=1e-6)


@pytest.mark.parametrize(
    ("start", "sign", "passes"),
    [(0.02, 1, True), (0.02, -1, True), (0.005, 1, True), (0.005, -1, False)],
)
def test_only_gradients_that_lead_out_are_stopped(batch, start, sign, passes):
    model = ContrastiveModel(Fixed(), initial_temperature=start, min_temperature=0.01)
    _, _, scale = model(batch)
    (sign * scale).backward()
    assert scale.item() <= 100 * (1 + 1e-6)
    assert (float(model.logit_scale.grad) != 0) == passes


def test_the_temperature_stays_at_the_bound_and_comes_back(batch):
    model = ContrastiveModel(Fixed(), initial_temperature=0.0105, min_temperature=0.01)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    scales = []
    for step in range(400):
        _, _, scale = model(batch)
        optimizer.zero_grad()
        (-scale if step < 200 else scale).backward()
        optimizer.step()
        scales.append(scale.item())
    assert max(scales) <= 100 * (1 + 1e-6)
    assert scales[199] == pytest.approx(100)
    # the momentum of Adam carries it past the bound by less than a dozen steps' worth, not by 200
    assert float(scales[250]) < 100


def test_first_weights_depend_on_the_seed_alone(encoder_config, encoder_folder):
    def weights(seed, **train):
        torch.rand(int(torch.randint(1, 9, ())))  # what happened before has no part in it
        model = build_model(encoder_config, encoder_folder, TrainConfig(**train), seed)
        return torch.cat([parameter.flatten() for parameter in model.parameters()])

    first = weights(3, num_ranks=1, zero_stage=0)
    assert torch.equal(first, weights(3, num_ranks=4, zero_stage=3))
    assert not torch.equal(first, weights(4))
    assert first[0].item() == pytest.approx(-math.log(0.07))
