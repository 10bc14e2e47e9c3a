import math

import pytest
import torch
from torch.nn import functional as F

from trainer.losses import info_nce


def slow_info_nce(u, v, scale):
    total = 0.0
    for i in range(len(u)):
        for anchors, others in ((u, v), (v, u)):
            logits = [float(scale * anchors[i] @ others[j]) for j in range(len(u))]
            total += math.log(sum(math.exp(logit - logits[i]) for logit in logits))
    return total / (2 * len(u))


@pytest.fixture
def uv():
    torch.manual_seed(0)
    return F.normalize(torch.randn(2, 6, 4, dtype=torch.float64), dim=-1)


def test_it_is_the_formula(uv):
    scale = torch.tensor(5.0, dtype=torch.float64)
    assert float(info_nce(*uv, scale)) == pytest.approx(slow_info_nce(*uv, scale), rel=1e-12)


def test_it_is_half_of_the_papers_loss_at_its_optimum():
    # Simplex ETF, N = d + 1, temperature 1: L_con = 2 log(1 + (N - 1) e^(-N / (N - 1))).
    n = 4
    simplex = F.normalize(torch.eye(n, dtype=torch.float64) - 1 / n, dim=1)
    expected = math.log(1 + (n - 1) * math.exp(-n / (n - 1)))
    assert float(info_nce(simplex, simplex, torch.tensor(1.0))) == pytest.approx(expected, rel=1e-6)


def test_it_is_symmetric_in_the_sides(uv):
    u, v = uv
    scale = torch.tensor(3.0, dtype=torch.float64)
    assert float(info_nce(u, v, scale)) == pytest.approx(float(info_nce(v, u, scale)), rel=1e-12)


def test_gradients_are_those_of_finite_differences(uv):
    u, v = (side.clone().requires_grad_() for side in uv)
    scale = torch.tensor(4.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(info_nce, (u, v, scale))


def test_half_precision_embeddings_have_float32_logits(uv):
    u, v = uv.bfloat16()
    loss = info_nce(u, v, torch.tensor(100.0))
    assert loss.dtype == torch.float32
    expected = info_nce(u.float(), v.float(), torch.tensor(100.0))
    assert float(loss) == float(expected)
