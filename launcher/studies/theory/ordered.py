"""Ordered SGD: the weights it gives to batches by their rank, and how much sooner it solves a toy problem.

The toy (section 5.1 of the paper; its start from the authors' code): N = 4, d = 2, B = 2, u_i = v_i at the angles t,
-t, pi - t, pi + t. The optimum is the cross-polytope, t = pi / 4. SGD takes one of the six pairs at random, ordered SGD
the one with the largest loss. A pair at the angle phi has the loss 2 log(1 + e^(cos phi - 1)), so that one step moves
t, in expectation and with the logistic function sigma, by

    ordered SGD:  eta / 2 * 2 sin 2t sigma(cos 2t - 1)
    SGD:          eta / 6 * 2 sin 2t (sigma(cos 2t - 1) - sigma(-cos 2t - 1)).

For t -> 0 the ratio is 3 (e^2 + 1) / (e^2 - 1), the constant of the paper. It grows towards pi / 4, where SGD comes to
rest and ordered SGD does not.

Legend: s runs, n points.
"""

import math
from collections.abc import Callable
from itertools import combinations
from math import comb

import numpy as np
from jaxtyping import Float64, Int64
from scipy.special import expit

from launcher.studies.claims import Claim

LEARNING_RATE = 0.01
_DRAWS = 7, 4, 2
_WEIGHTS = (0.5714, 0.5714, 0.4571, 0.2857, 0.1143, 0.0, 0.0)
_HITTING_RATIOS = {
    0.1745: {0.2: 4.75, 0.1: 5.44, 0.01: 8.75},
    0.01: {0.2: 4.22, 0.1: 4.53, 0.01: 5.99},
    0.001: {0.2: 4.12, 0.1: 4.33, 0.01: 5.35},
}
"""Steps of SGD over those of ordered SGD, by first angle and distance from pi / 4, to two decimals."""

_PAIRS = np.array(list(combinations(range(4), 2)))
_SIGNS = np.array([1, -1, -1, 1])  # by which the angles of the four points grow with t
_OFFSETS = np.array([0, 0, np.pi, np.pi])

Drift = Callable[[float], float]
"""Expected change of the angle t in one step, per unit of the learning rate."""

Choice = Callable[[Float64[np.ndarray, "s 4"], np.random.Generator], Int64[np.ndarray, "s 2"]]
"""From the angles of the four points: the pair of each run that the next step takes."""


def rank_weights(num_batches: int, num_drawn: int, num_kept: int) -> Float64[np.ndarray, "n"]:
    """gamma_j, the probability that the batch of rank j is trained on when s of n are drawn and the q hardest kept.

    gamma_j = sum_(l < q) C(j - 1, l) C(n - j, s - l - 1) / C(n, s): l harder ones are drawn with it (Kawaguchi and Lu,
    arXiv 1907.04371).
    """
    total = comb(num_batches, num_drawn)
    return np.array([
        sum(
            comb(rank - 1, harder) * comb(num_batches - rank, num_drawn - harder - 1)
            for harder in range(num_kept)
        ) / total
        for rank in range(1, num_batches + 1)
    ])  # fmt: skip


def enumerated_weights(num_batches: int, num_drawn: int, num_kept: int) -> Float64[np.ndarray, "n"]:
    """The same, by going through all draws."""
    draws = np.array(list(combinations(range(num_batches), num_drawn)))  # hardest first
    return np.bincount(draws[:, :num_kept].ravel(), minlength=num_batches) / len(draws)


def weights_by_rank(seed: int) -> list[Claim]:
    """The formula for gamma_j against enumeration and against published values."""
    weights, counted = rank_weights(*_DRAWS), enumerated_weights(*_DRAWS)
    n, s, q = _DRAWS
    where = f"n = {n}, s = {s}, q = {q}"
    return [
        *(
            Claim("OSGD", f"gamma_{rank}, {where}", counted[rank - 1], reference)
            for rank, reference in enumerate(_WEIGHTS, start=1)
        ),
        Claim("OSGD", "formula against enumeration", np.abs(weights - counted).max(), 0),
        Claim("OSGD", "sum of gamma_j", weights.sum(), q),
    ]


def drift_ordered(angle: float) -> float:
    """Of ordered SGD: the pair {t, -t} or its mirror image, so that each point moves every other step."""
    return math.sin(2 * angle) * float(expit(math.cos(2 * angle) - 1))


def drift_random(angle: float) -> float:
    """Of SGD: each point's near neighbour pushes it one way, its other neighbour back, one step in six each."""
    near, far = (float(expit(sign * math.cos(2 * angle) - 1)) for sign in (1, -1))
    return math.sin(2 * angle) * (near - far) / 3


def steps_to(drift: Drift, start: float, tolerance: float, rate: float = LEARNING_RATE) -> int:
    """Steps until the angle is less than `tolerance` from pi / 4."""
    angle, steps = start, 0
    while math.pi / 4 - angle >= tolerance:
        angle += rate * drift(angle)
        steps += 1
    return steps


def ordered_is_faster(seed: int) -> list[Claim]:
    """The toy problem: ratio of the drifts, ratios of the hitting times, and that real runs keep to them."""
    limit = 3 * (math.e**2 + 1) / (math.e**2 - 1)
    ratio = drift_ordered(1e-4) / drift_random(1e-4)
    claims = [
        Claim("toy", "ratio of the drifts for t -> 0", ratio, 3.9391),
        Claim("toy", "3 (e^2 + 1) / (e^2 - 1)", limit, 3.9391),
    ]
    lowest = math.inf
    for start, by_tolerance in _HITTING_RATIOS.items():
        for tolerance, reference in by_tolerance.items():
            steps = [steps_to(drift, start, tolerance) for drift in (drift_random, drift_ordered)]
            lowest = min(lowest, steps[0] / steps[1])
            what = f"T_SGD / T_OSGD from {start:g} to within {tolerance:g}"
            claims.append(Claim("toy", what, steps[0] / steps[1], reference, tolerance=5e-3))
    claims.append(Claim("toy", "lowest ratio, above that of the drifts", lowest, limit, ">="))
    return [*claims, *_claim_real_runs(seed)]


def _claim_real_runs(seed: int) -> list[Claim]:
    """Real, random steps: a mean over runs, which differ."""
    start, tolerance = 0.1745, 0.2
    hits = [
        hitting_times(random_pair, start, tolerance, num_runs=400, seed=seed),
        hitting_times(hardest_pair, start, tolerance, num_runs=1, seed=seed),
    ]
    what = f"the same from {start:g} to within {tolerance:g}, 400 real runs"
    expected = _HITTING_RATIOS[start][tolerance]
    return [Claim("toy", what, hits[0].mean() / hits[1].mean(), expected, tolerance=0.25)]


def random_pair(
    angles: Float64[np.ndarray, "s 4"], rng: np.random.Generator
) -> Int64[np.ndarray, "s 2"]:
    """SGD's choice, one of the six pairs for each run."""
    return _PAIRS[rng.integers(len(_PAIRS), size=len(angles))]


def hardest_pair(
    angles: Float64[np.ndarray, "s 4"], rng: np.random.Generator
) -> Int64[np.ndarray, "s 2"]:
    """Ordered SGD's choice: the two points that are nearest have the largest loss."""
    cosines = np.cos(angles[:, _PAIRS[:, 0]] - angles[:, _PAIRS[:, 1]])
    return _PAIRS[cosines.argmax(axis=1)]


def trajectory(
    choose: Choice,
    start: float,
    num_steps: int,
    num_runs: int,
    seed: int,
) -> Float64[np.ndarray, "steps s"]:
    """t, averaged over the four points, before each step of real runs with one pair per step."""
    rng = np.random.default_rng(seed)
    angles = np.tile(_OFFSETS + _SIGNS * start, (num_runs, 1))
    runs = np.arange(num_runs)
    path = np.empty((num_steps, num_runs))
    for step in range(num_steps):
        path[step] = ((angles - _OFFSETS) * _SIGNS).mean(axis=1)
        one, other = choose(angles, rng).T
        apart = angles[runs, one] - angles[runs, other]
        push = LEARNING_RATE * 2 * expit(np.cos(apart) - 1) * np.sin(apart)
        angles[runs, one] += push
        angles[runs, other] -= push
    return path


def hitting_times(
    choose: Choice,
    start: float,
    tolerance: float,
    num_runs: int,
    seed: int,
    num_steps: int = 3000,
) -> Float64[np.ndarray, "s"]:
    """The first step of each run at which t is less than `tolerance` from pi / 4; NaN for a run that never is."""
    near = np.abs(trajectory(choose, start, num_steps, num_runs, seed) - np.pi / 4) < tolerance
    return np.where(near.any(axis=0), near.argmax(axis=0), np.nan)
