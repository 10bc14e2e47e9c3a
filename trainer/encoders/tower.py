"""One tower: a model of the package transformers, its summary of an image or a text, and a projection to the sphere.

Legend: b pairs, s height and width, t tokens of the longest text, p patches or tokens, w width of the model, d dims.
"""

from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from trainer.encoder_config import ImageTowerConfig, TowersConfig
from trainer.encoders.inputs import NO_TOKEN, ImageInput, TextInput

Pooling = Literal["model", "mean", "first"]


class ImageTower(nn.Module):
    """Images to the sphere."""

    mean: Tensor
    std: Tensor

    def __init__(
        self, config: ImageTowerConfig, model: PreTrainedModel, projector: nn.Module
    ) -> None:
        super().__init__()
        self.to_tensor = ImageInput(config)
        self.model = model
        self.projector = projector
        self._pooling: Pooling = config.pooling
        # In the configuration, hence not among the weights.
        self.register_buffer("mean", torch.tensor(config.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(3, 1, 1), persistent=False)

    def forward(self, pixels: UInt8[Tensor, "b 3 s s"]) -> Float[Tensor, "b d"]:
        """Embed images; rows are float32 and have length 1."""
        values = (pixels / 255 - self.mean) / self.std
        output = self.model(pixel_values=values.to(self.model.dtype))
        return project(pool(output, self._pooling), self.projector)


class TextTower(nn.Module):
    """Texts to the sphere."""

    def __init__(self, to_tensor: TextInput, model: PreTrainedModel, projector: nn.Module) -> None:
        super().__init__()
        self.to_tensor = to_tensor
        self.model = model
        self.projector = projector
        self._pooling: Pooling = to_tensor.config.pooling

    def forward(self, token_ids: Int64[Tensor, "b t"]) -> Float[Tensor, "b d"]:
        """Embed texts; rows are float32 and have length 1."""
        real = token_ids != NO_TOKEN
        # Any token will do where none is: it is masked.
        output = self.model(input_ids=token_ids.clamp(min=0), attention_mask=real.long())
        return project(pool(output, self._pooling, real), self.projector)


def pool(
    output: Any, pooling: Pooling, real: Bool[Tensor, "b p"] | None = None
) -> Float[Tensor, "b w"]:
    """What stands for a whole image or text.

    Args:
        output: of a model.
        pooling: as `ImageTowerConfig.pooling` says.
        real: which tokens there are; None takes all.
    """
    if pooling == "model":
        return output.pooler_output.flatten(1)
    patches = (
        output.last_hidden_state
    )  # patches: (b, p, w), or (b, w, height, width) of a convolutional network
    if patches.ndim == 4:
        patches = patches.flatten(2).transpose(1, 2)
    if pooling == "first":
        return patches[:, 0]
    if real is None:
        return patches.mean(1)
    weights = real.to(patches.dtype)[:, :, None]
    return (patches * weights).sum(1) / weights.sum(1)


def project(features: Float[Tensor, "b w"], projector: nn.Module) -> Float[Tensor, "b d"]:
    """The sphere, to float32 precision whatever the weights are: the loss divides by a small temperature."""
    return F.normalize(projector(features).float(), dim=-1)


def make_projector(model: PreTrainedModel, config: TowersConfig) -> nn.Module:
    """From the width of a model to d: one matrix, or SimCLR's two with batch norm.

    Source: Chen et al., 2020; without the scale of the last batch norm, as in SogCLR, whose code the paper builds on.
    """
    width = getattr(model.config, "hidden_size", None) or model.config.hidden_sizes[-1]
    if config.projector_width is None:
        return nn.Linear(width, config.dim, bias=False)
    return nn.Sequential(
        nn.Linear(width, config.projector_width, bias=False),
        nn.BatchNorm1d(config.projector_width),
        nn.ReLU(),
        nn.Linear(config.projector_width, config.dim, bias=False),
        nn.BatchNorm1d(config.dim, affine=False),
    )
