"""Settings of selection: which strategy forms the batches, on which graph, how often.

Imports no numpy, torch, ray or faiss, so that a configuration can be checked anywhere in an instant.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from selection.errors import ConfigError

StrategyName = Literal[
    "full", "all", "random", "osgd", "spectral", "paper_spectral",
    "metis", "kaminpar", "rcm", "random_walk", "kmeans",
]  # fmt: skip


class Settings(BaseModel):
    """Base of all settings: immutable, and an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )


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

    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the encoder's matrix products; `bfloat16` is many times as fast on GPUs. Rows are normalised in float32."""

    dtype: Literal["float16", "float32"] = "float32"
    """How embeddings are stored."""


class GraphConfig(Settings):
    """The sparse graph that links each pair to those it is confused with."""

    num_neighbors: int = Field(default=32, ge=1)
    """K: nearest V of each u, and as many nearest U of each v."""

    first_rank: int = Field(default=0, ge=0)
    """p: the p nearest of each are not linked, for they may be right answers themselves; the K after them are. They may
    still meet, by neighbours that they share; `hardness.margin` keeps them apart."""

    mutual: bool = False
    """Link two pairs only when each is among the other's K, in the same direction."""

    index: Literal["auto", "flat", "ivf"] = "auto"
    """Index that is searched: `flat` is exact; `ivf` is approximate; `auto` takes `flat` up to 4,000 pairs."""

    min_recall: float = Field(default=0.95, ge=0, le=1)
    """Recall at K, measured on a sample, that an `ivf` search must reach; it looks at no more than that takes."""


class OsgdConfig(Settings):
    """The q hardest of k random batches; the defaults are the paper's.

    All others are left over, nine of ten pairs, and do not come first in the next round: there, too, the hardest do.
    """

    num_candidates: int = Field(default=1500, ge=1)
    """k: random batches that are compared with each other."""

    num_kept: int = Field(default=150, ge=1)
    """q: how many of them are trained on; the share q / k where there are fewer than k."""

    @model_validator(mode="after")
    def _keeps_some_of_them(self) -> "OsgdConfig":
        if self.num_kept > self.num_candidates:
            raise ValueError(
                f"num_kept is {self.num_kept}, but must be at most num_candidates ({self.num_candidates}); "
                "change either"
            )
        return self


class PaperSpectralConfig(Settings):
    """Spectral clustering of random groups with a dense matrix, as the paper does it."""

    batches_per_group: int = Field(default=40, ge=1)
    """Batches that are cut from one group; time grows with the cube, memory with the square."""


class MetisConfig(Settings):
    """METIS, the partitioner that B3 uses."""

    recursive: bool | None = None
    """Recursive bisection, or direct k-way as B3 calls it, which falls apart when groups are small; null bisects for
    groups of fewer than 64."""


class KaminparConfig(Settings):
    """KaMinPar, a partitioner for many parts."""

    preset: Literal[
        "fast", "default", "eco", "strong", "largek_fast", "largek", "largek_eco", "largek_strong"
    ] = "largek"
    """Its own name for a balance of speed and quality."""

    num_threads: int = Field(default=1, ge=1)
    """With more than one it is faster, and no longer gives the same batches for the same seed."""


class RandomWalkConfig(Settings):
    """Batches of the nodes that a random walk with restart visits most."""

    restart_share: float = Field(default=0.2, ge=0, lt=1)
    """Share of the steps that go back to where the walk began; more keeps it nearer."""

    steps_per_node: int = Field(default=64, ge=1)
    """Steps of a walk for each node of the batch."""


class KmeansConfig(Settings):
    """Balanced k-means of the embeddings, without a graph."""

    fan_out: int = Field(default=32, ge=2)
    """About how many parts one split makes; the number is evened out over the levels, see
    `selection.partition.child_sizes`."""


class SpectralConfig(Settings):
    """Recursive spectral clustering into batches of exactly B."""

    fan_out: int = Field(default=16, ge=2)
    """About how many parts one split makes; the number is evened out over the levels, see
    `selection.partition.child_sizes`."""

    num_eigenvectors: int = Field(default=16, ge=1)
    """Most leading eigenvectors that a split looks at; as many as it has parts, where that is less."""

    num_links: int = Field(default=20, ge=1)
    """Strongest links of each node that the eigenvectors look at; everything else looks at all."""

    device: str = Field(default="cpu", pattern=r"^(cpu|cuda(:\d+)?)$")
    """Where torch computes the eigenvectors of the first split, by far the largest: `cuda`, for which a run sets
    a GPU aside; `cpu` needs no torch."""

    exchange_passes: int = Field(default=4, ge=0)
    """Passes of pairwise exchange between the parts of a split; 0 turns it off."""

    move_rounds: int = Field(default=6, ge=0)
    """Rounds of moves of single nodes between all batches, judged by affinity; 0 turns them off."""

    swap_sweeps: int = Field(default=1, ge=0)
    """Sweeps of swaps between finished batches, judged by the true InfoNCE; 0 turns them off."""

    affinity_share: float = Field(default=0.03, ge=0)
    """What a unit of affinity counts beside a unit of the loss when a swap is judged."""


UNGUARDED: tuple[StrategyName, ...] = ("full", "all")
"""Strategies whose batches nobody can be moved out of."""


class HardnessConfig(Settings):
    """How hard batches may be. More hardness is not more accuracy: tight groups gather false negatives."""

    cluster_size: int | None = Field(default=None, ge=2)
    """K: pairs chosen together; a batch is B / K groups put together at random, so that the smaller K is, the milder
    its negatives are. Null takes the whole batch, K = B."""

    random_share: float = Field(default=0.0, ge=0, le=1)
    """Share of each batch that is drawn at random from all pairs instead of chosen. The others are whole clusters, as
    many as come nearest; `num_random_per_batch` in the manifest says what became of it."""

    warmup_rounds: int = Field(default=0, ge=0)
    """Rounds over which the random share falls evenly from 1 to `random_share`: a curriculum from easy to hard."""

    margin: float | None = Field(default=None, ge=-2, le=2)
    """Neighbours that are not less similar than the own partner by more than this are taken for false negatives: they
    are not linked, and share no batch. 0.05 is usual with a strong encoder; a weak one ranks many before the partner,
    and needs a margin below 0, or none: `false_negative_share` in the manifest says what share of the links it took.
    Null is no margin. Pairs that are drawn at random are not looked at."""

    separate_duplicates: bool = True
    """Pairs with a part in common never share a batch. Where only embeddings are known, equal rows are equal parts.
    Batches that a run makes without embeddings (of round 0, and of `random`) do not heed it, nor do `full` and `all`,
    which take whoever there is."""

    def num_random(self, batch_size: int, round_number: int) -> int:
        """Pairs of a batch that are drawn at random; the others are a multiple of the cluster size."""
        warmth = min(1.0, round_number / self.warmup_rounds) if self.warmup_rounds else 1.0
        chosen_share = (1 - self.random_share) * warmth
        group_size = self.cluster_size or 1
        return batch_size - group_size * round(chosen_share * batch_size / group_size)

    def check_batch_size(self, batch_size: int, field: str = "batch_size") -> None:
        """Refuse a batch that is not a whole number of groups, or whose random share comes to none or all of it.

        Raises:
            ConfigError: so it is; `field` is how its user calls `batch_size`.
        """
        if self.cluster_size and batch_size % self.cluster_size:
            raise ConfigError(
                f"selection.hardness.cluster_size: is {self.cluster_size}, but must divide {field} ({batch_size}); "
                "change either"
            )
        num_random = self.num_random(batch_size, self.warmup_rounds)
        if 0 < self.random_share < 1 and num_random in (0, batch_size):
            raise ConfigError(
                f"selection.hardness.random_share: is {self.random_share:g}, but with groups of "
                f"{self.cluster_size or 1} in a batch of {batch_size} that comes to {num_random} random pairs; take a "
                "smaller cluster_size, another share, or 0 or 1 if that is meant"
            )

    def looks_for_duplicates(self, strategy: StrategyName) -> bool:
        """Whether duplicates are separated in the batches of a strategy."""
        return self.separate_duplicates and strategy not in UNGUARDED

    def check_strategy(self, strategy: StrategyName) -> None:
        """Refuse settings that a strategy cannot heed.

        Raises:
            ConfigError: it takes whoever there is, or judges whole batches, and one of them is set.
        """
        if strategy == "osgd" and self.cluster_size:
            raise ConfigError(
                f"selection.hardness.cluster_size: is {self.cluster_size}, but strategy osgd judges whole batches; "
                "set it to null, or take another strategy"
            )
        if strategy not in UNGUARDED:
            return
        for field in ("cluster_size", "random_share", "warmup_rounds", "margin"):
            value = getattr(self, field)
            if value != type(self).model_fields[field].default:
                raise ConfigError(
                    f"selection.hardness.{field}: is {value:g}, but strategy {strategy} takes whoever there is; "
                    "leave it out, or take another strategy"
                )


WHOLE: tuple[StrategyName, ...] = (*UNGUARDED, "osgd")
"""Strategies that take some batches of all pairs, and not all pairs of each region."""


class RegionsConfig(Settings):
    """Regions of related pairs, into which a data set is divided that does not fit one node; each is selected alone."""

    max_pairs: int = Field(default=10_000_000, ge=4)
    """M: most pairs of a region, which is what one node can do; up to as many pairs are one region. Smaller regions
    take less memory and lose neighbours: `neighbors_in_region` in the manifest says what share of them is left. What
    `hardness` draws at random is drawn from the own region."""

    cpus_per_region: int | None = Field(default=None, ge=1)
    """CPUs, and threads, that a region is selected with; a node selects as many regions side by side as it has room
    for, and needs the memory of all of them. More than 16 have little to do. Null takes a whole node for each."""

    def divide(self, strategy: StrategyName, num_pairs: int) -> bool:
        """Whether pairs are divided: when there are too many; random batches need no node that holds them all."""
        return num_pairs > self.max_pairs and strategy != "random"

    def check(self, strategy: StrategyName, num_pairs: int, batch_size: int) -> None:
        """Refuse to divide what cannot be divided.

        Raises:
            ConfigError: the strategy looks at all pairs at once, or a region has no room for two batches.
        """
        if not self.divide(strategy, num_pairs):
            return
        if strategy in WHOLE:
            raise ConfigError(
                f"selection.regions.max_pairs: is {self.max_pairs:,}, but strategy {strategy} looks at all "
                f"{num_pairs:,} pairs at once; raise it to that, or take another strategy"
            )
        if self.max_pairs < 2 * batch_size:
            raise ConfigError(
                f"selection.regions.max_pairs: is {self.max_pairs:,}, but must be at least two batches of "
                f"{batch_size:,}; raise it"
            )


class RefreshConfig(Settings):
    """When a new schedule is made."""

    mode: Literal["alternate", "overlap"] = "alternate"
    """`alternate` trains, then selects, then trains: embeddings are of no age, and selection has the whole machine.
    `overlap` selects the next schedule while the ranks train, from the first checkpoint inside the round: they wait
    only where selection takes longer than the rest of the round, and embeddings are up to a round old."""

    embeddings: Literal["computed", "collected"] = "computed"
    """`computed` embeds every pair with a checkpoint; `collected` takes what training computed in the last epoch of the
    round: half an epoch old on average, and free. With `overlap` it is the first of several epochs."""

    keep_ranks: bool = True
    """Ranks wait while selection works, and use no CPU meanwhile. Off, they end and start anew for every round, which
    gives selection their memory and their GPUs, too; `overlap` needs it on."""

    epochs_per_round: int = Field(default=1, ge=1)
    """Times that a schedule is used before the next one; its batches are shuffled anew each time."""

    @model_validator(mode="after")
    def _overlap_is_possible(self) -> "RefreshConfig":
        if self.mode == "overlap" and not self.keep_ranks:
            raise ValueError(
                "keep_ranks is false, but with mode=overlap ranks go from round to round by themselves; set "
                "keep_ranks=true, or mode=alternate"
            )
        if self.mode == "overlap" and self.embeddings == "collected" and self.epochs_per_round == 1:
            raise ValueError(
                "epochs_per_round is 1, but mode=overlap selects from the embeddings of the first epoch while others "
                "are trained; set epochs_per_round=2 or more, embeddings=computed, or mode=alternate"
            )
        return self


class SelectionConfig(Settings):
    """How the batches of a round are chosen."""

    strategy: StrategyName = "spectral"
    """Name of the function in `selection/strategies/` that forms the batches."""

    temperature: float | None = Field(default=None, gt=0)
    """t in the loss weights w(k, l); null takes the temperature that the model has learned so far."""

    embed: EmbedConfig = EmbedConfig()
    graph: GraphConfig = GraphConfig()
    hardness: HardnessConfig = HardnessConfig()
    regions: RegionsConfig = RegionsConfig()
    osgd: OsgdConfig = OsgdConfig()
    spectral: SpectralConfig = SpectralConfig()
    paper_spectral: PaperSpectralConfig = PaperSpectralConfig()
    metis: MetisConfig = MetisConfig()
    kaminpar: KaminparConfig = KaminparConfig()
    random_walk: RandomWalkConfig = RandomWalkConfig()
    kmeans: KmeansConfig = KmeansConfig()
    refresh: RefreshConfig = RefreshConfig()

    @property
    def collects(self) -> bool:
        """Whether batches are chosen, and from the embeddings that training computes."""
        return self.strategy != "random" and self.refresh.embeddings == "collected"

    @property
    def overlaps(self) -> bool:
        """Whether the ranks train while others work: on the next schedule, and on the judging of the last round."""
        return self.refresh.mode == "overlap"

    @property
    def selects_ahead(self) -> bool:
        """Whether batches are chosen while the ranks train the round before."""
        return self.strategy != "random" and self.overlaps

    @property
    def gpus_to_select(self) -> int:
        """GPUs of the task that chooses batches, or of each region's."""
        return int(self.strategy == "spectral" and self.spectral.device != "cpu")

    @property
    def cpus_beside_ranks(self) -> float:
        """CPUs of one node that selecting or judging needs while the ranks train; 0: they wait for it."""
        return max(1.0, self.embed.cpus_per_worker) if self.overlaps else 0.0
