"""Free embeddings, moved by SGD as in the paper's synthetic experiment (github.com/krafton-ai/mini-batch-cl).

Points of U and V are drawn from N(0, I); their directions are the embeddings; SGD with rate 0.5, no momentum, one
batch of two per update. The steps of the curves are the paper's: of N / B updates each, except that the full batch and
the mean over all batches update once. Every method starts from the same points.

All runs of a method move at once; time is O(updates), memory a few [s, n, n].

Legend: s runs, n pairs, d dimensions, t steps.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
from jaxtyping import Float64, Int64

from launcher.studies.configurations import (
    distance_to_cross_polytope,
    distance_to_simplex,
    orthogonal_simplices,
)
from launcher.studies.designs import full_batch
from launcher.studies.free_embeddings import contrastive_loss, loss_gradient, to_sphere
from launcher.studies.synthetic.methods import BATCH_SIZE, METHODS
from selection.processes import run_all

LEARNING_RATE = 0.5
STEPS_PER_DISTANCE = 10
"""Distances are measured every so many steps, losses after each."""


@dataclass(frozen=True)
class Setting:
    """N pairs in d dimensions: N <= d + 1, where the simplex is best, or N = 2 d, where the cross-polytope is."""

    num_pairs: int
    dim: int

    @property
    def is_simplex(self) -> bool:
        """Which of the two it is."""
        return self.num_pairs <= self.dim + 1

    @property
    def target(self) -> Float64[np.ndarray, "n n"]:
        """Similarities of the optimum."""
        return orthogonal_simplices(self.num_pairs, 1 if self.is_simplex else self.dim)

    def __str__(self) -> str:
        return f"N = {self.num_pairs}, d = {self.dim}"


SETTINGS = tuple(Setting(n, d) for n in (4, 8, 16) for d in (2 * n, n // 2))


@dataclass(frozen=True)
class Curves:
    """What became of the runs of one method in one setting."""

    setting: Setting
    method: str
    gaps: Float64[np.ndarray, "t s"]
    """L_con of all pairs above the lowest, before the first step and after each."""

    distances: Float64[np.ndarray, "t10 s"]
    """||U*^T V* - U^T V||_F, before the first and after every tenth step."""

    similarities: Float64[np.ndarray, "n n"]
    """U^T V of the first run, at the end."""


def first_points(setting: Setting, num_runs: int, seed: int) -> Float64[np.ndarray, "2 s n d"]:
    """Where every method starts: run i depends on `seed` + i alone."""
    shape = 2, setting.num_pairs, setting.dim
    seeds = ((seed + run, setting.num_pairs, setting.dim) for run in range(num_runs))
    return np.stack([np.random.default_rng(key).standard_normal(shape) for key in seeds], axis=1)


def train(setting: Setting, method: str, num_runs: int, num_steps: int, seed: int) -> Curves:
    """Move the embeddings of all runs by one method."""
    points = first_points(setting, num_runs, seed)
    measure = distance_to_simplex if setting.is_simplex else distance_to_cross_polytope
    everyone = np.broadcast_to(full_batch(setting.num_pairs), (num_runs, 1, setting.num_pairs))
    lowest = contrastive_loss(setting.target[None], everyone[:1])
    gaps, distances = [], []
    for step in range(num_steps + 1):
        if step:
            take_step(points, method, seed, step)
        U, V = to_sphere(points)
        similarities = U @ V.swapaxes(1, 2)
        gaps.append(contrastive_loss(similarities, everyone) - lowest)
        if step % STEPS_PER_DISTANCE == 0:
            distances.append(measure(similarities))
    U, V = to_sphere(points[:, 0])
    return Curves(setting, method, np.array(gaps), np.array(distances), U @ V.T)


def take_step(points: Float64[np.ndarray, "2 s n d"], method: str, seed: int, step: int) -> None:
    """Move `points` by the updates of one step."""
    choose, every_update = METHODS[method].choose, METHODS[method].every_update
    for _ in range(points.shape[2] // BATCH_SIZE if every_update else 1):
        batches = choose(to_sphere(points), seed, step)
        for update in range(batches.shape[1]):
            points -= LEARNING_RATE * loss_gradient(points, batches[:, update])


def train_all(
    settings: Sequence[Setting],
    methods: Sequence[str],
    num_runs: int,
    num_steps: int,
    seed: int,
    num_workers: int,
) -> Iterator[Curves]:
    """Every method in every setting, in processes of one thread each; they come in the order in which they finish."""
    work = partial(_train, num_runs=num_runs, num_steps=num_steps, seed=seed)
    tasks = list(product(settings, methods))
    for _, curves in run_all(work, tasks, num_workers):
        yield curves


def _train(task: tuple[Setting, str], **kwargs: int) -> Curves:
    _use_one_thread()
    return train(*task, **kwargs)


def _use_one_thread() -> None:
    """Such small problems only wait for a second one."""
    import numba
    from threadpoolctl import threadpool_limits

    numba.set_num_threads(1)
    threadpool_limits(1)


def first_below(gaps: Float64[np.ndarray, "t s"], threshold: float) -> Int64[np.ndarray, "s"]:
    """The first step of each run after which its gap is below `threshold`; -1 where it never is."""
    below = gaps < threshold
    return np.where(below.any(axis=0), below.argmax(axis=0), -1)
