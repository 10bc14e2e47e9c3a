"""A small text transformer: one tower for both sides, pre-norm blocks, mean over the tokens.

Made to be quick on two CPU cores. The texts of a batch have different lengths, so tokens are packed: all layers but
attention see one [n, width] matrix of the real tokens and spend nothing on padding; attention alone unpacks them into
[b, t], masked. One tower halves the weights, and a learned vector tells the sides apart.

Cost of a block: 24 n width^2 + 4 b t^2 width floating-point operations forward, twice that backward.

Legend: b texts, t tokens of the longest, n real tokens in all, h heads, w width, d dims.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from selection.progress import Progress
from trainer.config import TextTransformerConfig
from trainer.encoders import Encoder, PairReader, Side
from trainer.encoders.tokenizer import PAD_ID, PairTokenizer, open_tokenizer, prepare_tokenizer

_INIT_STD = 0.02


def prepare(
    config: TextTransformerConfig, index: PairReader, folder: Path, progress: Progress
) -> None:
    """See `trainer.encoders.prepare_encoder`."""
    prepare_tokenizer(config, index, folder, progress)


def build(config: TextTransformerConfig, folder: Path) -> "TextTransformer":
    """See `trainer.encoders.build_encoder`."""
    return TextTransformer(config, open_tokenizer(config, folder))


class TextTransformer(Encoder):
    """See the module docstring."""

    def __init__(self, config: TextTransformerConfig, tokenizer: PairTokenizer) -> None:
        super().__init__()
        self.dim = config.dim
        self.collate = tokenizer
        self._tokenizer = tokenizer
        max_tokens = max(config.u_max_tokens, config.v_max_tokens)
        self.tokens = nn.Embedding(tokenizer.tokenizer.get_vocab_size(), config.width)
        self.positions = nn.Embedding(max_tokens, config.width)
        self.sides = nn.Embedding(2, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.width)
        self.projection = nn.Linear(config.width, config.dim, bias=False)
        for embedding in (self.tokens, self.positions, self.sides):
            nn.init.normal_(embedding.weight, std=_INIT_STD)

    def to_inputs(self, side: Side, parts: Sequence[bytes]) -> Int64[Tensor, "b t"]:
        """See `Encoder`."""
        return self._tokenizer.tokenize(side, parts)

    def embed(self, side: Side, inputs: Int64[Tensor, "b t"]) -> Float[Tensor, "b d"]:
        """See `Encoder`."""
        packing = _Packing.of(inputs != PAD_ID)
        side_id = torch.tensor(["u", "v"].index(side), device=inputs.device)
        token_ids = inputs.flatten()[packing.places]
        columns = packing.places % inputs.shape[1]
        x = self.tokens(token_ids) + self.positions(columns) + self.sides(side_id)  # x: (n, w)
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x, packing)
        pooled = packing.unpack(self.norm(x)).sum(1) / packing.real.sum(1, keepdim=True)
        # Length 1 to float32 precision whatever the weights are: the loss divides by a small temperature.
        return F.normalize(self.projection(pooled.to(x.dtype)).float(), dim=-1)


@dataclass(frozen=True)
class _Packing:
    """Where the real tokens of a padded batch are."""

    real: Bool[Tensor, "b t"]
    places: Int64[Tensor, "n"]

    @classmethod
    def of(cls, real: Bool[Tensor, "b t"]) -> "_Packing":
        return cls(real, real.flatten().nonzero().squeeze(1))

    def unpack(self, x: Float[Tensor, "n c"]) -> Float[Tensor, "b t c"]:
        b, t = self.real.shape
        # Not a boolean assignment: index_copy is deterministic on GPUs too, forward and backward.
        return x.new_zeros(b * t, x.shape[1]).index_copy(0, self.places, x).view(b, t, -1)

    def pack(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "n c"]:
        return x.flatten(0, 1)[self.places]


class _Block(nn.Module):
    """Pre-norm self-attention and MLP on packed tokens."""

    def __init__(self, config: TextTransformerConfig) -> None:
        super().__init__()
        width = config.width
        self.num_heads = config.num_heads
        self.attention_dropout = config.dropout
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Float[Tensor, "n w"], packing: _Packing) -> Float[Tensor, "n w"]:
        x = x + self.dropout(self.out(self._attend(self.qkv(self.attention_norm(x)), packing)))
        return x + self.dropout(self.down(F.gelu(self.up(self.mlp_norm(x)))))

    def _attend(self, qkv: Float[Tensor, "n 3w"], packing: _Packing) -> Float[Tensor, "n w"]:
        b, t = packing.real.shape
        heads = packing.unpack(qkv).view(b, t, 3, self.num_heads, -1)
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # each: (b, h, t, w / h)
        attended = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=packing.real[:, None, None, :],
            dropout_p=self.attention_dropout if self.training else 0.0,
        )
        return packing.pack(attended.transpose(1, 2).flatten(2))
