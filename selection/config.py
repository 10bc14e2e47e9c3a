"""Settings of selection: which strategy forms the batches, on which graph, how often.

Imports no numpy, torch, ray or faiss, so that a configuration can be checked anywhere in an instant.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from selection.errors import ConfigError

StrategyName = Literal["random", "spectral"]


class Settings(BaseModel):
    """Base of all settings: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class EmbedConfig(Settings):
    """The pass that embeds every pair with the newest checkpoint."""

    num_workers: int = Field(default=2, ge=1)
    """Ray actors that embed shards side by side."""

    cpus_per_worker: float = Field(default=1, gt=0)
    """CPUs of each actor; also its number of threads."""

    gpus_per_worker: float = Field(default=0, ge=0)
    """GPUs of each actor; 0 embeds on the CPU."""

    batch_size: int = Field(default=256, ge=1)
    """Pairs per forward pass."""

    dtype: Literal["float16", "float32"] = "float32"
    """How embeddings are stored."""


class GraphConfig(Settings):
    """The sparse graph that links each pair to those it is confused with."""

    num_neighbors: int = Field(default=16, ge=1)
    """K: nearest V of each u, and as many nearest U of each v."""

    index: Literal["auto", "flat", "ivf"] = "auto"
    """FAISS index: `flat` is exact; `ivf` is approximate; `auto` takes `flat` up to 50,000 pairs."""

    min_recall: float = Field(default=0.95, ge=0, le=1)
    """Recall at K, measured on a sample, that an `ivf` search must reach; it probes more until it does."""


class SpectralConfig(Settings):
    """Recursive spectral clustering into batches of exactly B."""

    fan_out: int = Field(default=32, ge=2)
    """Most parts that one split makes."""

    num_eigenvectors: int = Field(default=32, ge=1)
    """Leading eigenvectors that a split looks at."""

    exchange_passes: int = Field(default=4, ge=0)
    """Passes of pairwise exchange between the parts of a split; 0 turns it off."""

    swap_sweeps: int = Field(default=4, ge=0)
    """Sweeps of swaps between finished batches, judged by affinity; 0 turns them off."""

    exact_sweeps: int = Field(default=0, ge=0)
    """Sweeps of swaps after those, judged by the true InfoNCE; slower, and off until they are measured in training."""

    affinity_share: float = Field(default=0.06, ge=0)
    """What a unit of affinity counts beside a unit of the loss, in exact sweeps."""


class HardnessConfig(Settings):
    """How hard batches may be. More hardness is not more accuracy: tight groups gather false negatives."""

    cluster_size: int | None = Field(default=None, ge=2)
    """K: pairs chosen together; a batch is B / K groups put together at random, so that the smaller K is, the milder
    its negatives are. Null takes the whole batch, K = B."""

    random_share: float = Field(default=0.0, ge=0, le=1)
    """Share of each batch that is drawn at random from all pairs instead of chosen."""

    warmup_rounds: int = Field(default=0, ge=0)
    """Rounds over which the random share falls evenly from 1 to `random_share`: a curriculum from easy to hard."""

    def num_random(self, batch_size: int, round_number: int) -> int:
        """Pairs of a batch that are drawn at random; the others are a multiple of the cluster size."""
        warmth = min(1.0, round_number / self.warmup_rounds) if self.warmup_rounds else 1.0
        chosen_share = (1 - self.random_share) * warmth
        group_size = self.cluster_size or 1
        return batch_size - group_size * round(chosen_share * batch_size / group_size)

    def check_batch_size(self, batch_size: int, field: str = "batch_size") -> None:
        """Refuse a batch that is not a whole number of groups.

        Raises:
            ConfigError: the cluster size does not divide `batch_size`; `field` is how its user calls that.
        """
        if self.cluster_size and batch_size % self.cluster_size:
            raise ConfigError(
                f"selection.hardness.cluster_size: is {self.cluster_size}, but must divide {field} ({batch_size}); "
                "change either"
            )


class RefreshConfig(Settings):
    """When a new schedule is made."""

    mode: Literal["alternate"] = "alternate"
    """`alternate` trains, then selects, then trains: the embeddings are never stale."""

    epochs_per_round: int = Field(default=1, ge=1)
    """Times that a schedule is used before the next one; its batches are shuffled anew each time."""


class SelectionConfig(Settings):
    """How the batches of a round are chosen."""

    strategy: StrategyName = "spectral"
    """Name of the function in `selection/strategies/` that forms the batches."""

    temperature: float | None = Field(default=None, gt=0)
    """t in the loss weights w(k, l); null takes the temperature that the model has learned so far."""

    embed: EmbedConfig = EmbedConfig()
    graph: GraphConfig = GraphConfig()
    hardness: HardnessConfig = HardnessConfig()
    spectral: SpectralConfig = SpectralConfig()
    refresh: RefreshConfig = RefreshConfig()
