"""The pictures of the synthetic study: curves of gap and distance, and heat maps of U^T V (figure 1 of the paper)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64

from launcher.studies.configurations import antipodes
from launcher.studies.synthetic.methods import METHODS
from launcher.studies.synthetic.runs import STEPS_PER_DISTANCE, Curves, Setting
from launcher.studies.synthetic.summary import quartiles
from selection.artifacts import atomic_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LOWEST_GAP = 1e-5  # below it curves lie on the floor, or they would be all that is seen
_STYLES = {"full": "--", "all": "--", "fixed": ":"}


def draw_curves(path: Path, by_setting: Mapping[Setting, Sequence[Curves]], measure: str) -> None:
    """A panel per setting; medians with the middle half of the runs.

    Args:
        path: of the PNG file.
        by_setting: curves of all methods.
        measure: `gap` or `distance`.
    """
    from matplotlib.figure import Figure

    width = -(-len(by_setting) // 2)
    figure = Figure(figsize=(4.4 * width, 7), layout="constrained")
    panels = figure.subplots(2, width, squeeze=False)
    # one row for each kind of optimum, where both are there
    ordered = sorted(by_setting, key=lambda setting: not setting.is_simplex)
    for axes in panels.flat[len(ordered) :]:
        axes.axis("off")
    for axes, setting in zip(panels.flat, ordered, strict=False):
        _draw_setting(axes, by_setting[setting], measure)
        axes.set_title(str(setting))
    for axes in panels[-1]:
        axes.set_xlabel("steps")
    for axes in panels[:, 0]:
        axes.set_ylabel("L - L*" if measure == "gap" else "distance from the optimum")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside right upper")
    _save(figure, path)


def _draw_setting(axes: "Axes", all_curves: Sequence[Curves], measure: str) -> None:
    for curves in all_curves:
        values = curves.gaps[::STEPS_PER_DISTANCE] if measure == "gap" else curves.distances
        low, middle, high = quartiles(values)
        if measure == "gap":
            low, middle, high = (np.maximum(line, _LOWEST_GAP) for line in (low, middle, high))
        steps = np.arange(len(values)) * STEPS_PER_DISTANCE
        color = f"C{list(METHODS).index(curves.method)}"
        style = _STYLES.get(curves.method, "-")
        label = METHODS[curves.method].label
        axes.plot(steps, middle, style, color=color, label=label)
        axes.fill_between(steps, low, high, color=color, alpha=0.12, lw=0)
    if measure == "gap":
        axes.set_yscale("log")
    axes.grid(alpha=0.2)


def draw_heat_maps(path: Path, by_setting: Mapping[Setting, Sequence[Curves]]) -> None:
    """U^T V of the first run of every method at the end, beside the optimum; a row per setting."""
    from matplotlib.figure import Figure

    width = 1 + max(len(all_curves) for all_curves in by_setting.values())
    figure = Figure(figsize=(1.6 * width, 1.5 * len(by_setting) + 0.4), layout="constrained")
    panels = figure.subplots(len(by_setting), width, squeeze=False)
    for row, (setting, all_curves) in zip(panels, by_setting.items(), strict=True):
        maps = {"optimum": setting.target}
        maps |= {METHODS[curves.method].label: curves.similarities for curves in all_curves}
        row[0].set_ylabel(str(setting))
        for axes, (title, similarities) in zip(row, maps.items(), strict=False):
            shown = similarities if setting.is_simplex else couples_together(similarities)
            axes.imshow(shown, cmap="YlGn", vmin=-1, vmax=1)
            axes.set(xticks=[], yticks=[])
            if setting == next(iter(by_setting)):
                axes.set_title(title, fontsize=8)
    figure.colorbar(panels[0, 0].images[0], ax=panels, shrink=0.5, label="u_i.v_j")
    _save(figure, path)


def couples_together(similarities: Float64[np.ndarray, "n n"]) -> Float64[np.ndarray, "n n"]:
    """Renumbered such that antipodes stand beside each other."""
    order = np.ravel(antipodes(similarities))
    return similarities[np.ix_(order, order)]


def _save(figure: "Figure", path: Path) -> None:
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=100)
