"""Alarms: what in the signals of a schedule says that training on it would go wrong.

They cover the failures that the paper of the method lists (arXiv 2307.05906): embeddings that leave the unit sphere or
collapse, imbalance, the same batches again and again. Batch sizes are exact here, so what can be out of balance is the
graph: a few hubs that are near to everything. Added are those of a graph that was searched or linked badly, and of
batches that are no harder than random ones.

An alarm is one line: what, the value, the limit, the next step. An alarm stops nothing; a signal that was not measured
raises none.
"""

from collections.abc import Callable, Mapping
from typing import Any

from selection.checks import NORM_TOLERANCE
from selection.config import SelectionConfig
from selection.search_quality import HUB_SHARE_OF_PAIRS

MIN_EFFECTIVE_RANK = 1.5
"""Below it one direction holds about 95 % of the embeddings: their mean cosine is above 0.95."""
MAX_HUB_SHARE = 1 / 3
"""Embeddings of 59,392 docstrings and bodies of functions had 0.19; with one side collapsed it is 0.5."""
MAX_KEPT_SHARE = 0.5
"""Of the mates that were chosen. Rounds of training kept 0.1 of them, embeddings that stood still 0.4 to 0.65."""
MAX_ISOLATED_SHARE = 0.1
"""Isolated pairs fill batches at random."""
MIN_NEIGHBORS_IN_REGION = 0.3
"""Ten regions kept 0.5 (code search) to 0.74 (a power law) of the neighbours, and 0.23 where there is no structure."""
MIN_GAIN = 1.02
"""Loss of the chosen batches over that of random ones."""
_NOT_CHOOSING = ("random", "full", "all")


def alarms(signals: Mapping[str, Any], config: SelectionConfig) -> list[str]:
    """What is wrong with a schedule, one line each.

    Args:
        signals: what `selection.quality` measured, with `num_batches`, `batch_size` and `num_random_per_batch`.
        config: the settings that the batches were chosen by.
    """
    lines = (check(signals, config) for check in _CHECKS)
    return [line for line in lines if line]


def _off_sphere(signals: Mapping[str, Any], config: SelectionConfig) -> str | None:
    share = signals.get("off_sphere_share", 0)
    if share <= 0:
        return None
    return (
        f"embeddings are off the unit sphere: the norm of {share:.2%} of them is not within {NORM_TOLERANCE:g} of 1; "
        "divide each by its norm"
    )


def _collapsed(signals: Mapping[str, Any], config: SelectionConfig) -> str | None:
    ranks = {side: signals.get(f"effective_rank_{side.lower()}") for side in ("U", "V")}
    low = {
        side: rank for side, rank in ranks.items() if rank is not None and rank < MIN_EFFECTIVE_RANK
    }
    if not low:
        return None
    values = " and ".join(f"of {side} is {rank:.2f}" for side, rank in low.items())
    return (
        f"embeddings have collapsed: the effective rank {values}, expected at least {MIN_EFFECTIVE_RANK}; "
        "lower the learning rate or train on random batches for longer"
    )


def _unbalanced(signals: Mapping[str, Any], config: SelectionConfig) -> str | None:
    share = signals.get("hub_share", 0)
    if share <= MAX_HUB_SHARE or config.graph.mutual:  # mutual links of a pair are at most 2 K
        return None
    return (
        f"the graph is out of balance: {HUB_SHARE_OF_PAIRS:.0%} of the pairs take {share:.0%} of all places among the "
        f"neighbours, expected at most {MAX_HUB_SHARE:.0%}; look for empty or boilerplate items, or set graph.mutual"
    )


def _repeated(signals: Mapping[str, Any], config: SelectionConfig) -> str | None:
    """Measured from chance, as the adjusted Rand index is (Hubert and Arabie 1985), to keeping all that was chosen."""
    if "kept_mates" not in signals:
        return None
    kept, by_chance = signals["kept_mates"], signals["random_kept_mates"]
    batch_size, group_size = signals["batch_size"], signals["group_size"]
    chosen_share = 1 - signals["num_random_per_batch"] / batch_size
    chosen_mates = chosen_share * (group_size - 1) / (batch_size - 1)
    limit = by_chance + MAX_KEPT_SHARE * chosen_mates * (1 - by_chance)
    if chosen_mates <= by_chance or kept <= limit:
        return None
    return (
        f"the same batches again: pairs keep {kept:.1%} of their batch mates from round to round ({by_chance:.1%} by "
        f"chance), expected at most {limit:.1%}; choose less often (refresh.epochs_per_round) or mix more "
        "(hardness.random_share)"
    )


def _low_recall(signals: Mapping[str, Any], config: SelectionConfig) -> str | None:
    recall = signals.get("knn_recall_in_region", signals.get("knn_recall", 1))
    least = config.graph.min_recall
    if recall >= least:
        return None
    return (
        f"the search misses neighbours: its recall is {recall:.3f}, expected at least {least:g} (graph.min_recall); "
        "set graph.index to flat"
    )


def _cut(signals: Mapping[str, Any], config: SelectionConfig) -> str | None:
    share = signals.get("neighbors_in_region", 1)
    if share >= MIN_NEIGHBORS_IN_REGION:
        return None
    return (
        f"regions cut neighbours apart: {share:.0%} of them are in the same region, expected at least "
        f"{MIN_NEIGHBORS_IN_REGION:.0%}; raise regions.max_pairs"
    )


def _isolated(signals: Mapping[str, Any], config: SelectionConfig) -> str | None:
    share = signals.get("isolated_share", 0)
    if share <= MAX_ISOLATED_SHARE:
        return None
    return (
        f"pairs are isolated: {share:.0%} of them are linked to no other, expected at most {MAX_ISOLATED_SHARE:.0%}; "
        "they fill batches at random; raise graph.num_neighbors, or relax graph.mutual and hardness.margin"
    )


def _not_harder(signals: Mapping[str, Any], config: SelectionConfig) -> str | None:
    """Silent where nothing was chosen: random batches, a single batch, or a curriculum that has just begun."""
    mostly_random = 2 * signals.get("num_random_per_batch", 0) > signals.get("batch_size", 0)
    if config.strategy in _NOT_CHOOSING or mostly_random or signals.get("num_batches", 0) < 2:
        return None
    loss, random = signals.get("batch_loss", 1), signals.get("random_batch_loss", 0)
    if loss > MIN_GAIN * random:
        return None
    return (
        f"batches are hardly harder than random: their loss is {loss:.3f}, that of random ones {random:.3f}, expected "
        f"at least {MIN_GAIN:g} times that; choose from a model that has learned more, or take strategy random"
    )


_CHECKS: tuple[Callable[[Mapping[str, Any], SelectionConfig], str | None], ...] = (
    _off_sphere,
    _collapsed,
    _unbalanced,
    _repeated,
    _low_recall,
    _cut,
    _isolated,
    _not_harder,
)
