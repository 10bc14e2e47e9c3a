"""Settings of training: the optimizer, the ranks, and, from a file of their own, the encoders.

Imports no torch or deepspeed, so that a configuration can be checked anywhere in an instant.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from selection.config import Settings
from trainer.encoder_config import EncoderConfig, TextTransformerConfig, TowersConfig

__all__ = [
    "EncoderConfig",
    "OptimizerConfig",
    "TextTransformerConfig",
    "TowersConfig",
    "TrainConfig",
]


_Decay = Annotated[float, Field(ge=0, lt=1)]


class OptimizerConfig(Settings):
    """AdamW with a linear warm-up and a cosine decay over the whole run."""

    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.1, ge=0)
    betas: tuple[_Decay, _Decay] = (0.9, 0.98)
    eps: float = Field(default=1e-6, gt=0)

    warmup_steps: int = Field(default=100, ge=0)
    """Steps of linear warm-up."""

    final_lr_ratio: float = Field(default=0.0, ge=0, le=1)
    """Learning rate at the last step, relative to `lr`."""

    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are clipped to this norm."""


class TrainConfig(Settings):
    """The ranks and what they do with a schedule."""

    batch_size: int = Field(default=64, ge=2)
    """B: pairs per batch over all ranks; negatives come from the whole batch."""

    num_ranks: int = Field(default=2, ge=1)
    """Trainer processes; each takes B / num_ranks pairs of every batch."""

    min_ranks: int | None = Field(default=None, ge=1)
    """Fewest ranks with which training begins or goes on where the cluster has no place for `num_ranks`, as after the
    loss of a node; the largest number that divides the batch is taken, and batches stay the same. Null: not with fewer.
    Ranks on CPUs that are kept between rounds (`selection.refresh.keep_ranks`) find a place anyway, beside others;
    not where selection overlaps training (`selection.refresh.mode`)."""

    use_gpu: bool = False
    """One GPU per rank with NCCL, instead of CPU ranks with gloo."""

    cpus_per_rank: float = Field(default=1, gt=0)
    """CPUs of each rank; also its number of threads."""

    zero_stage: Literal[0, 1, 2, 3] = 1
    """DeepSpeed ZeRO stage."""

    precision: Literal["float32", "bfloat16"] = "float32"

    optimizer: OptimizerConfig = OptimizerConfig()

    initial_temperature: float = Field(default=0.07, gt=0)
    """1 / e^logit_scale at the start; the model learns it."""

    min_temperature: float = Field(default=0.01, gt=0)
    """The learned temperature is clamped from below at this value, as CLIP does."""

    reader_processes: int = Field(default=0, ge=0)
    """Processes per rank that read and tokenize ahead; 0 leaves it to the rank itself, best where ranks use CPUs."""

    num_steps: int | None = Field(default=None, ge=1)
    """Steps of the whole run: its last round ends there, wherever its schedule does. Null trains whole rounds."""

    log_every_steps: int = Field(default=20, ge=1)
    checkpoint_every_steps: int = Field(default=500, ge=1)
    """Steps between checkpoints inside a round; the end of a round always has one. Where selection overlaps training
    (`selection.refresh.mode`), it begins with the first one of a round."""

    keep_checkpoints: int = Field(default=2, ge=1)
    """Complete checkpoints that are kept, the newest ones; where selection overlaps training, two more at most."""

    @model_validator(mode="after")
    def _settings_agree(self) -> "TrainConfig":
        if self.batch_size % self.num_ranks:
            nearest = self.batch_size // self.num_ranks * self.num_ranks or self.num_ranks
            raise ValueError(
                f"batch_size is {self.batch_size}, but must be a multiple of num_ranks "
                f"({self.num_ranks}); take {nearest}, or another number of ranks"
            )
        if self.min_ranks is not None and self.min_ranks not in self.possible_num_ranks():
            raise ValueError(
                f"min_ranks is {self.min_ranks}, but must divide batch_size ({self.batch_size}) and be at most "
                f"num_ranks ({self.num_ranks}); change it"
            )
        if self.precision == "bfloat16" and self.zero_stage == 0:
            raise ValueError(
                "zero_stage is 0, but bfloat16 needs ZeRO: without it DeepSpeed has another optimizer, which learned "
                "visibly worse in our tests; take zero_stage=1, which costs nothing on one rank"
            )
        if self.min_temperature > self.initial_temperature:
            raise ValueError(
                f"min_temperature is {self.min_temperature}, but must not exceed "
                f"initial_temperature ({self.initial_temperature})"
            )
        return self

    def possible_num_ranks(self) -> list[int]:
        """How many ranks there may be, the wanted number first: each divides the batch."""
        fewest = self.num_ranks if self.min_ranks is None else self.min_ranks
        numbers = range(self.num_ranks, fewest - 1, -1)
        return [number for number in numbers if self.batch_size % number == 0]
