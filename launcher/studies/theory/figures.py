"""The theory as one picture: where losses are lowest, how fast they get there, and what the optima look like."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64

from launcher.studies.configurations import regular_polygon
from launcher.studies.designs import (
    FANO_PLANE,
    all_batches,
    cyclic_design,
    fixed_batches,
    full_batch,
)
from launcher.studies.free_embeddings import contrastive_loss, free, minimise
from launcher.studies.theory import ordered
from selection.artifacts import atomic_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TOY_START, _TOY_STEPS, _TOY_RUNS = 0.1745, 1200, 200


def draw(path: Path, seed: int) -> None:
    """Draw all panels into one PNG file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 6.4), layout="constrained")
    curves, maps = figure.subfigures(2, 1, height_ratios=[3.4, 3], squeeze=False)[:, 0]
    landscape, circle, toy = curves.subplots(1, 3)
    _draw_landscape(landscape)
    _draw_circle(circle)
    _draw_toy(toy, seed)
    _draw_optima(maps.subplots(1, 6), seed)
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=110)


def moved_points(num_pairs: int, angles: Float64[np.ndarray, "s"]) -> Float64[np.ndarray, "s n n"]:
    """Similarities of a regular polygon, u_i = v_i, of which u_1 alone is turned by each of the angles."""
    corners = np.arange(num_pairs) * 2 * np.pi / num_pairs
    similarities = np.tile(regular_polygon(num_pairs), (len(angles), 1, 1))
    similarities[:, 0] = np.cos(corners[0] + angles[:, None] - corners)
    return similarities


def _draw_landscape(axes: "Axes") -> None:
    """Figure 1(a) of the paper: the full batch and all pairs, N = 10, d = 2, as u_1 moves."""
    angles = np.linspace(-np.pi, np.pi, 361)
    similarities = moved_points(10, angles)
    for label, batches in {
        "full batch": full_batch(10),
        "all 45 pairs": all_batches(10, 2),
    }.items():
        losses = contrastive_loss(
            similarities, np.broadcast_to(batches, (len(angles), *batches.shape))
        )
        axes.plot(np.degrees(angles), losses - losses.min(), label=label)
    axes.set(
        title="N = 10, d = 2: both losses when u₁ moves",
        xlabel="u₁ turned by, degrees", ylabel="loss above its minimum",
    )  # fmt: skip
    axes.legend()


def _draw_circle(axes: "Axes") -> None:
    """Yet, when all points may move, they have different optima; the inner one is drawn smaller."""
    for label, num_corners, radius in (("full batch", 10, 1.0), ("all 45 pairs", 5, 0.8)):
        angles = np.arange(num_corners + 1) * 2 * np.pi / num_corners
        axes.plot(radius * np.cos(angles), radius * np.sin(angles), "o-", label=label)
    axes.annotate("two pairs at each", (0, 0), ha="center", va="center")
    axes.set(title="the optimum of each when all points move", aspect="equal")
    axes.axis("off")
    axes.legend(loc="lower left", fontsize=8)


def _draw_toy(axes: "Axes", seed: int) -> None:
    """Real runs of the toy problem, with the steps that theory expects."""
    methods = {
        "SGD": (ordered.random_pair, ordered.drift_random, _TOY_RUNS),
        "OSGD": (ordered.hardest_pair, ordered.drift_ordered, 1),
    }
    for color, (label, (choose, drift, num_runs)) in enumerate(methods.items()):
        path = ordered.trajectory(choose, _TOY_START, _TOY_STEPS, num_runs, seed)
        axes.plot(np.median(path, axis=1), color=f"C{color}", label=f"{label}, median")
        low, high = np.quantile(path, [0.25, 0.75], axis=1)
        axes.fill_between(range(_TOY_STEPS), low, high, color=f"C{color}", alpha=0.25, lw=0)
        hit = ordered.steps_to(drift, _TOY_START, tolerance=0.1)
        axes.plot(hit, np.pi / 4 - 0.1, "x", color=f"C{color}", label=f"{label}, expected")
    axes.axhline(np.pi / 4 - 0.1, color="black", lw=0.6, ls=":")
    axes.axhline(np.pi / 4, color="black", lw=0.6)
    axes.set(title="toy: steps to the cross-polytope", xlabel="steps", ylabel="angle t")
    axes.legend(fontsize=8)


def _draw_optima(panels: np.ndarray, seed: int) -> None:
    """U^T V at the minimisers of several sets of batches."""
    sets = {
        "all 35 triples": all_batches(7, 3),
        "Fano plane, 7 triples": cyclic_design(*FANO_PLANE),
        "34 of 35 triples": all_batches(7, 3)[1:],
        "all 21 pairs": all_batches(7, 2),
        "20 of 21 pairs": all_batches(7, 2)[1:],
        "fixed, 4 x 2": fixed_batches(8, 2),
    }
    for axes, (title, batches) in zip(panels, sets.items(), strict=True):
        num_pairs = int(batches.max()) + 1
        best = minimise(batches, free(num_pairs), num_pairs - 1, seed=seed)[0]
        axes.imshow(best.similarities, cmap="YlGn", vmin=-1, vmax=1)
        axes.set_title(title, fontsize=10)
        axes.set(xticks=[], yticks=[])
    panels[0].figure.colorbar(panels[0].images[0], ax=list(panels), label="u_i.v_j", shrink=0.8)
