"""Embeddings to select from: of real texts, and mixtures whose structure is known.

Legend: n pairs, d dimensions.
"""

import re
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from selection.embeddings import load_embeddings
from selection.shards import build_index, expand_shards

Embeddings = tuple[Float32[np.ndarray, "n d"], Float32[np.ndarray, "n d"]]

DIM = 64
_CLUSTER_SPREAD = 1.0  # of a point around its centre, both of length 1 before they are added
_VIEW_SPREAD = 0.6  # of u and v around their point
_PAIRS_PER_CLUSTER = 50
_POWER = 1.5

_WORD = re.compile("[A-Za-z]{3}")
_MOST_TEXTS_FOR_SVD = 200_000


def embeddings(data: str) -> Embeddings:
    """Those of `KIND:VALUE`: `equal:N`, `power:N`, `none:N`, `lines:N`, `code-search:FOLDER`, or `run:FOLDER`."""
    kind, _, value = data.partition(":")
    if kind == "code-search":
        return code_search(Path(value))
    if kind == "run":
        return load_embeddings(sorted(Path(value).glob("embeddings/round-*/train"))[-1])
    return lines(int(value)) if kind == "lines" else mixture(kind, int(value))


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
    index = build_index(expand_shards(f"{folder}/train/shard-*.tar"), folder / "index")
    samples = index.read(np.arange(len(index)))
    return _of_texts([[sample[part].decode() for sample in samples] for part in ("txt", "py")], dim)


def lines(num_pairs: int, dim: int = DIM, seed: int = 0) -> Embeddings:
    """TF-IDF and truncated SVD of lines of the installed Python packages: two lines and the two that follow them.

    Real texts of which a machine has more than a million. Lines without a word are left out, and so are texts that were
    there before.

    Args:
        num_pairs: n, drawn from all; a little fewer where a text holds no word that another one has.
        dim: d.
        seed: of the draw.
    """
    from trainer.datasets.code_search import installed_roots

    texts: dict[str, None] = {}  # in order; u and v take turns
    for root in installed_roots():
        for path in sorted(root.rglob("*.py")):
            known = [line.strip() for line in _text(path).splitlines() if _WORD.search(line)]
            for start in range(0, len(known) - 3, 4):
                pair = "\n".join(known[start : start + 2]), "\n".join(known[start + 2 : start + 4])
                if pair[0] != pair[1] and not any(text in texts for text in pair):
                    texts.update(dict.fromkeys(pair))
    sides = list(texts)[::2], list(texts)[1::2]
    if len(sides[0]) < num_pairs:
        raise SystemExit(f"lines:{num_pairs}: the installed packages have {len(sides[0])} pairs")
    drawn = np.random.default_rng(seed).permutation(len(sides[0]))[:num_pairs]
    return _of_texts([[side[number] for number in drawn] for side in sides], dim)


def _text(path: Path) -> str:
    return path.read_text("utf-8", errors="replace")


def _of_texts(texts: list[list[str]], dim: int) -> Embeddings:
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer(
        token_pattern=r"[A-Za-z][a-z]+|[A-Z]+", sublinear_tf=True, min_df=2, dtype=np.float32
    ).fit(texts[0] + texts[1])
    some = texts[0][:_MOST_TEXTS_FOR_SVD] + texts[1][:_MOST_TEXTS_FOR_SVD]
    svd = TruncatedSVD(dim, random_state=0).fit(words.transform(some))
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
