"""The results of a study as pictures: scores over seconds, and each arm against the reference."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from launcher.studies.trials.plan import STEPS
from launcher.studies.trials.results import ArmSummary, Result
from selection.artifacts import atomic_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_Found = TypeVar("_Found", ArmSummary, Result)
_MOST_CURVES = 10  # more cannot be told apart


def draw(
    folder: Path,
    results: Sequence[Result],
    summaries: Sequence[ArmSummary],
    reference: str,
    score: str,
) -> list[Path]:
    """Draw `curves.png` and `differences.png`.

    Args:
        folder: where they go.
        results: of all finished trials.
        summaries: of all arms and budgets.
        reference: the arm that the others are compared with.
        score: what the score is called.
    """
    from matplotlib.figure import Figure

    paths = []
    budgets = list(dict.fromkeys(summary.budget for summary in summaries))
    heights = {"curves": 4.0, "differences": 1.2 + 0.3 * len(summaries) / len(budgets)}
    for name, height in heights.items():
        figure = Figure(figsize=(5.5 * len(budgets), height), layout="constrained")
        panels = figure.subplots(1, len(budgets), squeeze=False, sharex=True)[0]
        for axes, budget in zip(panels, budgets, strict=True):
            own = _at(budget, summaries, reference)
            axes.set_title("equal steps" if budget == STEPS else budget.replace("-", " x "))
            if name == "curves":
                here = _at(budget, results, reference)
                _draw_curves(axes, here, own, _colors(summaries, reference), score)
            else:
                _draw_differences(axes, own, reference, score)
        paths.append(folder / f"{name}.png")
        with atomic_file(paths[-1]) as file:
            figure.savefig(file, format="png", dpi=120)
    return paths


def _at(budget: str, found: Sequence[_Found], reference: str) -> list[_Found]:
    """What there is at a budget; where the reference has nothing there, what it did with all its steps."""
    own = [each for each in found if each.budget == budget]
    if all(each.arm != reference for each in own):
        own += [each for each in found if (each.budget, each.arm) == (STEPS, reference)]
    return own


def _colors(summaries: Sequence[ArmSummary], reference: str) -> dict[str, str]:
    """A colour for each arm, the same in all panels; the reference is black and comes first."""
    others = dict.fromkeys(summary.arm for summary in summaries if summary.arm != reference)
    return {reference: "black", **{arm: f"C{number}" for number, arm in enumerate(others)}}


def _draw_curves(
    axes: "Axes",
    results: Sequence[Result],
    summaries: Sequence[ArmSummary],
    colors: Mapping[str, str],
    score: str,
) -> None:
    """Mean over the seeds of the reference and of the best arms; a thin line for each seed.

    Lines are level while batches are selected.
    """
    reference = next(iter(colors))
    ranked = sorted(summaries, key=lambda summary: (summary.arm != reference, -summary.final.mean))
    for summary in ranked[:_MOST_CURVES]:
        own = [result for result in results if result.arm == summary.arm]
        color = colors[summary.arm]
        lines = np.array([_line(result) for result in own])
        for line in lines:
            axes.plot(*line, color=color, alpha=0.25, linewidth=0.8)
        axes.plot(
            *lines.mean(axis=0), color=color, marker="o", markersize=3, markevery=2,
            label=summary.arm,
        )  # fmt: skip
    axes.set_xlabel("seconds of training and selection")
    axes.set_ylabel(score)
    axes.grid(alpha=0.2)
    num_left_out = len(ranked) - _MOST_CURVES
    title = f"{num_left_out} more, below these" if num_left_out > 0 else None
    axes.legend(fontsize=8, title=title, title_fontsize=8)


def _line(result: Result) -> tuple[list[float], list[float]]:
    """Seconds and scores of the evaluations, and between two of them of the first step after the refresh."""
    seconds, scores = result.seconds[:1], result.scores[:1]
    for start, end, score in zip(
        result.starts[1:], result.seconds[1:], result.scores[1:], strict=True
    ):
        seconds += [start, end]
        scores += [scores[-1], score]
    return seconds, scores


def _draw_differences(
    axes: "Axes", summaries: Sequence[ArmSummary], reference: str, score: str
) -> None:
    """A point and its interval for each arm, the best on top."""
    compared = [s for s in summaries if s.arm != reference and s.difference is not None]
    compared.sort(key=lambda summary: summary.difference.mean if summary.difference else 0)
    for place, summary in enumerate(compared):
        interval = summary.difference
        assert interval is not None, "those without one are left out above"
        axes.plot(interval.mean, place, "o", color="C0")
        if interval.low is not None and interval.high is not None:
            axes.plot([interval.low, interval.high], [place, place], color="C0")
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(compared)), [summary.arm for summary in compared])
    axes.locator_params(axis="x", nbins=5)
    axes.set_xlabel(f"{score} minus {reference}")
    axes.grid(axis="x", alpha=0.2)
