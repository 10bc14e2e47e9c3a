"""The paper's loss of embeddings that are free to move on the sphere, its gradient, and its minimisers.

    L_con(U_B, V_B) = - 1/B sum_i log softmax_j(u_i.v_j)_i - 1/B sum_i log softmax_j(v_i.u_j)_i,

averaged over the batches: the sum of both directions at temperature 1 (arXiv 2307.05906, equation 1), twice
`trainer.losses.info_nce`. It depends on the embeddings only through their similarities S = U V^T, and with G = dL/dS
the gradients of U and V are G V and G^T U. For problems this small that is faster than automatic differentiation by an
order of magnitude, and many runs move at once.

Legend: s runs side by side, n pairs, d dimensions, m batches, b batch size, p parameters.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float64, Int64


@dataclass(frozen=True)
class Minimum:
    """A local minimum: U and V with rows of length 1, and their loss."""

    U: Float64[np.ndarray, "n d"]
    V: Float64[np.ndarray, "n d"]
    loss: float

    @cached_property
    def similarities(self) -> Float64[np.ndarray, "n n"]:
        """u_i.v_j."""
        return self.U @ self.V.T


def off_diagonal(similarities: Float64[np.ndarray, "n n"]) -> Float64[np.ndarray, "n*(n-1)"]:
    """The similarities of different pairs."""
    return similarities[~np.eye(len(similarities), dtype=bool)]


def contrastive_loss(
    similarities: Float64[np.ndarray, "s n n"], batches: Int64[np.ndarray, "s m b"]
) -> Float64[np.ndarray, "s"]:
    """Mean of L_con over the batches of each run."""
    logits = _inside(similarities, batches)
    positives = np.trace(logits, axis1=2, axis2=3)
    exponentials = np.exp(logits)
    normalisers = sum(np.log(exponentials.sum(axis=axis)).sum(axis=2) for axis in (2, 3))
    return ((normalisers - 2 * positives) / batches.shape[2]).mean(axis=1)


def loss_slope(
    similarities: Float64[np.ndarray, "s n n"], batches: Int64[np.ndarray, "s m b"]
) -> Float64[np.ndarray, "s n n"]:
    """dL/dS of that mean."""
    _, num_batches, size = batches.shape
    exponentials = np.exp(_inside(similarities, batches))
    slope = exponentials / exponentials.sum(axis=3, keepdims=True)
    slope += exponentials / exponentials.sum(axis=2, keepdims=True)
    slope[..., range(size), range(size)] -= 2
    total = np.zeros_like(similarities)
    np.add.at(total, _places(batches), slope / (num_batches * size))
    return total


def _inside(similarities: np.ndarray, batches: np.ndarray) -> Float64[np.ndarray, "s m b b"]:
    return similarities[_places(batches)]


def _places(batches: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the entries [s, m, b, b] of all batches are in [s, n, n]."""
    runs = np.arange(len(batches))[:, None, None, None]
    return runs, batches[:, :, :, None], batches[:, :, None, :]


def to_sphere(points: Float64[np.ndarray, "*s n d"]) -> Float64[np.ndarray, "*s n d"]:
    """Rows scaled to length 1."""
    return points / np.linalg.norm(points, axis=-1, keepdims=True)


def loss_gradient(
    points: Float64[np.ndarray, "2 s n d"], batches: Int64[np.ndarray, "s m b"]
) -> Float64[np.ndarray, "2 s n d"]:
    """Gradient with respect to points whose directions are the embeddings, as the paper's own experiment has them.

    Args:
        points: those of U and V, of any length above 0.
        batches: over which each run takes the mean.
    """
    U, V = to_sphere(points)
    slope = loss_slope(U @ V.swapaxes(1, 2), batches)
    gradient = np.stack([slope @ V, slope.swapaxes(1, 2) @ U])
    directions = np.stack([U, V])
    gradient -= (gradient * directions).sum(axis=-1, keepdims=True) * directions
    return gradient / np.linalg.norm(points, axis=-1, keepdims=True)


def free(num_pairs: int) -> Float64[np.ndarray, "2*n 2*n"]:
    """Features of embeddings that are parameters themselves, for `minimise`."""
    return np.eye(2 * num_pairs)


def tied(num_pairs: int) -> Float64[np.ndarray, "2*n n"]:
    """Features of embeddings u_i = v_i: both sides are encoded alike, and nothing tells them apart."""
    return np.vstack([np.eye(num_pairs)] * 2)


def minimise(
    batches: Int64[np.ndarray, "m b"],
    features: Float64[np.ndarray, "2*n p"],
    dim: int,
    num_starts: int = 8,
    seed: int = 0,
) -> list[Minimum]:
    """Local minima of the mean loss over batches, from random starts by L-BFGS, the lowest first.

    Args:
        batches: which of the pairs meet.
        features: of the views x_1 .. x_n and x'_1 .. x'_n, which a shared linear encoder W [p, d] maps to
            u_i = x_i W / |x_i W| and v_i = x'_i W / |x'_i W|. See `free` and `tied`.
        dim: d.
        num_starts: random W to start from.
        seed: of the starts.
    """
    starts = np.random.default_rng(seed).standard_normal((num_starts, features.shape[1], dim))
    found = [_descend(start, batches[None], features) for start in starts]
    return sorted(found, key=lambda minimum: minimum.loss)


def _descend(
    start: Float64[np.ndarray, "p d"],
    batches: Int64[np.ndarray, "1 m b"],
    features: Float64[np.ndarray, "2*n p"],
) -> Minimum:
    from scipy.optimize import minimize

    num_pairs, dim = len(features) // 2, start.shape[1]

    def encode(weights: np.ndarray) -> Float64[np.ndarray, "2 1 n d"]:
        return (features @ weights.reshape(-1, dim)).reshape(2, 1, num_pairs, dim)

    def loss_and_gradient(weights: np.ndarray) -> tuple[float, np.ndarray]:
        points = encode(weights)
        U, V = to_sphere(points)
        loss = contrastive_loss(U @ V.swapaxes(1, 2), batches)[0]
        gradient = loss_gradient(points, batches).reshape(2 * num_pairs, dim)
        return loss, (features.T @ gradient).ravel()

    result = minimize(
        loss_and_gradient, start.ravel(), jac=True, method="L-BFGS-B",
        options={"maxiter": 5000, "maxfun": 20_000, "maxcor": 20, "ftol": 1e-15, "gtol": 1e-9},
    )  # fmt: skip
    U, V = to_sphere(encode(result.x))[:, 0]
    return Minimum(U, V, float(result.fun))
