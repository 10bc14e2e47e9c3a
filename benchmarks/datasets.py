"""Embeddings to select from: a real data set, and mixtures whose structure is known.

Legend: n pairs, d dimensions.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float32

from selection.shards import build_index, expand_shards

Embeddings = tuple[Float32[np.ndarray, "n d"], Float32[np.ndarray, "n d"]]

DIM = 64
_CLUSTER_SPREAD = 1.0  # of a point around its centre, both of length 1 before they are added
_VIEW_SPREAD = 0.6  # of u and v around their point
_PAIRS_PER_CLUSTER = 50
_POWER = 1.5


def mixture(kind: str, num_pairs: int, seed: int = 0) -> Embeddings:
    """Pairs around cluster centres on the sphere.

    Args:
        kind: `equal` clusters of about 50 pairs, `power` with sizes that follow a power law, or `none` at all.
        num_pairs: n.
        seed: of everything.
    """
    rng = np.random.default_rng(seed)
    num_clusters = max(1, num_pairs // _PAIRS_PER_CLUSTER)
    if kind == "none":
        points = _directions(rng, num_pairs)
    else:
        weights = np.ones(num_clusters)
        if kind == "power":
            weights = np.arange(1, num_clusters + 1) ** (-1 / (_POWER - 1) / 2)
        cluster_of = rng.choice(num_clusters, num_pairs, p=weights / weights.sum())
        centers = _directions(rng, num_clusters)
        points = _near(rng, centers[cluster_of], _CLUSTER_SPREAD)
    return _near(rng, points, _VIEW_SPREAD), _near(rng, points, _VIEW_SPREAD)


def code_search(folder: Path, dim: int = 128) -> Embeddings:
    """TF-IDF and truncated SVD of the texts that `coterie dataset code-search FOLDER` wrote."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    index = build_index(expand_shards(f"{folder}/train/shard-*.tar"), folder / "index")
    samples = index.read(np.arange(len(index)))
    texts = [[sample[part].decode() for sample in samples] for part in ("txt", "py")]
    words = TfidfVectorizer(
        token_pattern=r"[A-Za-z][a-z]+|[A-Z]+", sublinear_tf=True, min_df=2, dtype=np.float32
    ).fit(texts[0] + texts[1])
    svd = TruncatedSVD(dim, random_state=0).fit(words.transform(texts[0] + texts[1]))
    U, V = (svd.transform(words.transform(side)).astype(np.float32) for side in texts)
    norms = [np.linalg.norm(side, axis=1) for side in (U, V)]
    known = (norms[0] > 1e-6) & (norms[1] > 1e-6)  # a text without a known word has no direction
    return U[known] / norms[0][known, None], V[known] / norms[1][known, None]


def _directions(rng: np.random.Generator, count: int) -> Float32[np.ndarray, "n d"]:
    return _unit(rng.standard_normal((count, DIM), np.float32))


def _near(
    rng: np.random.Generator, points: Float32[np.ndarray, "n d"], spread: float
) -> Float32[np.ndarray, "n d"]:
    return _unit(points + np.float32(spread) * _directions(rng, len(points)))


def _unit(rows: Float32[np.ndarray, "n d"]) -> Float32[np.ndarray, "n d"]:
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows
