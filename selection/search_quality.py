"""How good a search for neighbours was, for the manifest.

Legend: n pairs.
"""

import math

import numpy as np

from selection.knn import Neighbors

HUB_SHARE_OF_PAIRS = 0.01
"""Hubs are this share of the pairs: those that occur most often among the neighbours of others."""


def measure_neighbors(neighbors: Neighbors) -> dict[str, float | str]:
    """How good the search was, and how evenly neighbours are spread over the pairs.

    So few pairs that 1 % of them is less than one have no hubs.
    """
    num_pairs = len(neighbors.v_of_u)
    hubs = {"hub_share": hub_share(neighbors)} if num_pairs * HUB_SHARE_OF_PAIRS >= 1 else {}
    return {
        "knn_index": neighbors.index,
        "knn_recall": neighbors.recall,
        "knn_recall_queries": neighbors.num_recall_queries,
        **hubs,
    }


def hub_share(neighbors: Neighbors) -> float:
    """Share of all places among the neighbours that the hubs take, the 1 % of pairs that occur there most often.

    It is 0.01 when all occur equally often. Hubs are near to everything (Radovanovic et al. 2010), yet each is in one
    batch only. Their share is used, and not the skewness of the occurrences, because it does not grow with n.
    """
    num_pairs = len(neighbors.v_of_u)
    occurrences = np.zeros(num_pairs, np.int64)
    for ids in (neighbors.v_of_u, neighbors.u_of_v):
        occurrences += np.bincount(ids[ids >= 0], minlength=num_pairs)
    num_hubs = math.ceil(HUB_SHARE_OF_PAIRS * num_pairs)
    hubs = np.partition(occurrences, num_pairs - num_hubs)[-num_hubs:]
    return float(hubs.sum() / max(1, occurrences.sum()))
