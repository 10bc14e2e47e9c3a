"""The model that is trained: an encoder and the temperature it learns.

logit_scale = -log(temperature) is learned, and the temperature must not fall below a minimum, or a few hard pairs
blow the loss up. CLIP clamps the parameter in place after each step. Under ZeRO that writes to a copy: the master
weights are a flat shard elsewhere, and the next step undoes it. So the bound is part of `forward`, whatever the stage.

A plain clamp has no gradient beyond the bound, and a parameter that steps over it would stay there for ever. A
clamp that always lets the gradient through would let the parameter drift away, and take as long to return.
`_UpperBound` lets through just the gradients that lead back.
"""

import math
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trainer.config import EncoderConfig, TrainConfig
from trainer.encoders import Batch, Encoder, build_encoder


class ContrastiveModel(nn.Module):
    """An encoder and a learned temperature."""

    def __init__(
        self, encoder: Encoder, initial_temperature: float, min_temperature: float
    ) -> None:
        super().__init__()
        self.encoder = encoder
        # One element, not a scalar: DeepSpeed cannot broadcast tensors without a dimension.
        self.logit_scale = nn.Parameter(torch.tensor([-math.log(initial_temperature)]))
        self.max_logit_scale = -math.log(min_temperature)

    def forward(
        self, batch: Batch
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b d"], Float[Tensor, ""]]:
        """Embed a batch.

        Returns:
            u and v on the unit sphere, and the scale of their similarities, 1 / temperature.
        """
        u, v = self.encoder(batch)
        # In float32 also when the weights are bfloat16, which has three digits.
        bounded = _UpperBound.apply(self.logit_scale.squeeze().float(), self.max_logit_scale)
        return u, v, bounded.exp()


class _UpperBound(torch.autograd.Function):
    """min(value, bound), with the gradient wherever a step against it does not lead further out."""

    @staticmethod
    def forward(ctx: Any, value: Float[Tensor, ""], bound: float) -> Float[Tensor, ""]:
        ctx.is_outside = value > bound
        return value.clamp(max=bound)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Float[Tensor, ""], None]:
        (gradient,) = grad_outputs
        return gradient.masked_fill(ctx.is_outside & (gradient < 0), 0.0), None


def build_model(
    encoder_config: EncoderConfig, encoder_folder: Path, train: TrainConfig, seed: int
) -> ContrastiveModel:
    """Build the model with the first weights of a run, a function of the encoder and the seed alone.

    Args:
        encoder_config: which encoder, and its settings.
        encoder_folder: what `prepare_encoder` made.
        train: where the temperature starts and ends.
        seed: of the run; the number of ranks, the ZeRO stage and the strategy have no part in it.
    """
    torch.manual_seed(seed)
    encoder = build_encoder(encoder_config, encoder_folder)
    return ContrastiveModel(encoder, train.initial_temperature, train.min_temperature)
