"""What a run does at all, and in how many parts; several estimates ask."""

from launcher.config import RunConfig
from selection.regions import count_regions


def chooses(config: RunConfig) -> bool:
    """Whether any round chooses its batches from embeddings; the first never does."""
    return config.rounds > 1 and config.selection.strategy != "random"


def collects(config: RunConfig) -> bool:
    """Whether embeddings are those that training computed."""
    return chooses(config) and config.selection.collects


def count_parts(config: RunConfig, num_pairs: int) -> int:
    """Regions that are selected one by one, each on a node; 1 where the data set fits one."""
    regions = config.selection.regions
    if not regions.divide(config.selection.strategy, num_pairs):
        return 1
    return count_regions(num_pairs, regions.max_pairs)
