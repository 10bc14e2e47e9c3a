"""The figures of a report: small multiples with a common scale, one colour, dash and marker per run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from launcher.report.theme import INK, MUTED, PAPER, PART, STAGE, canvas, style_of, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NUM_COLUMNS = 4
_LEGEND_COLUMNS = 4
_BAR_IN = 0.24
_LEGEND_PT = 22  # between a title and the panel below it
_HOLLOW = {"linestyle": "", "fillstyle": "none"}


@dataclass(frozen=True)
class Curve:
    """One quantity of one run over its training."""

    steps: Sequence[float]
    seconds: Sequence[float]
    values: Sequence[float]


@dataclass(frozen=True)
class Points:
    """One quantity of one run by round, with what random batches would have."""

    series: int
    rounds: Sequence[int]
    values: Sequence[float]
    random: Sequence[float] = ()


@dataclass(frozen=True)
class Panel:
    """One quantity of all runs by round."""

    title: str
    points: list[Points] = field(default_factory=list)


@dataclass(frozen=True)
class Bar:
    """Where the seconds of a round went: stages of the run, and parts of its selection."""

    label: str
    stages: Mapping[str, float]
    parts: Mapping[str, float]


def draw_learning(
    names: Sequence[str], retrieval: Sequence[Curve], losses: Sequence[Curve], label: str
) -> str:
    """Retrieval and loss, against steps on the left and against seconds on the right.

    Args:
        names: of the runs.
        retrieval: held-out MRR by round, one curve per run.
        losses: training loss, one curve per run.
        label: what a reader who does not see it is told.
    """
    with canvas("learning", height_in=5.0) as figure:
        axes = figure.subplots(2, 2, sharex="col", sharey="row")
        _draw_curves(axes[0], retrieval)
        _draw_curves(axes[1], losses, marker="")
        for column, unit in enumerate(("steps", "seconds of training and selection")):
            axes[0, column].set_title("Held-out MRR, u → v")
            axes[1, column].set_title("Training loss")
            axes[1, column].set_xlabel(unit)
            axes[1, column].set_xlim(left=0)
        axes[0, 0].set_ylim(bottom=0)
        _add_legend(figure, names)
        return to_svg(figure, label)


def _draw_curves(row: Sequence["Axes"], curves: Sequence[Curve], **changes: str) -> None:
    for series, curve in enumerate(curves):
        for ax, xs in zip(row, (curve.steps, curve.seconds), strict=True):
            ax.plot(xs, curve.values, **{**style_of(series), **changes})


def draw_rounds(names: Sequence[str], panels: Sequence[Panel], label: str) -> str:
    """Quantities by round, a panel each; hollow marks are what random batches would have."""
    from matplotlib.ticker import MaxNLocator

    num_rows = -(-len(panels) // _NUM_COLUMNS)
    with canvas("rounds", height_in=0.4 + 2.0 * num_rows) as figure:
        axes = figure.subplots(num_rows, _NUM_COLUMNS, squeeze=False).ravel()
        for ax, panel in zip(axes, panels, strict=False):
            for points in panel.points:
                _draw_points(ax, points)
            ax.set_title(panel.title)
            ax.set_xlabel("round")
            ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
            ax.margins(0.12)
            low, high = ax.dataLim.intervaly
            ax.set_ylim(min(0, 1.12 * low), 1.12 * high if high > 0 else 1)
        for ax in axes[len(panels) :]:
            ax.set_axis_off()
        _add_legend(figure, names, ["random batches instead"])
        return to_svg(figure, label)


def _draw_points(ax: "Axes", points: Points) -> None:
    style = style_of(points.series)
    ax.plot(points.rounds, points.values, **style)
    if points.random:
        ax.plot(points.rounds, points.random, **{**style, **_HOLLOW})


def draw_seconds(
    bars: Sequence[Bar], stages: Sequence[str], parts: Sequence[str], label: str
) -> str:
    """Stacked bars: stages of each round on the left, the parts of its selection on the right.

    Args:
        bars: one per round, or per run.
        stages: in the order in which they are stacked.
        parts: those of selection, likewise.
        label: what a reader who does not see it is told.
    """
    with canvas("seconds", height_in=1.3 + _BAR_IN * len(bars)) as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        _stack(left, [bar.stages for bar in bars], stages, STAGE)
        _stack(right, [bar.parts for bar in bars], parts, PART)
        left.set_title("All stages", pad=_LEGEND_PT)
        right.set_title("Inside selection", pad=_LEGEND_PT)
        left.set_yticks(range(len(bars)), [bar.label for bar in bars])
        left.invert_yaxis()
        return to_svg(figure, label)


def _stack(
    ax: "Axes", bars: Sequence[Mapping[str, float]], names: Sequence[str], colors: Sequence[str]
) -> None:
    ends = [0.0] * len(bars)
    for name, color in zip(names, colors, strict=False):
        widths = [bar.get(name, 0.0) for bar in bars]
        ax.barh(
            range(len(bars)), widths, left=ends, color=color, label=name,
            height=0.7, edgecolor=PAPER, linewidth=0.6,
        )  # fmt: skip
        ends = [end + width for end, width in zip(ends, widths, strict=True)]
    for row, end in enumerate(ends):
        text = f"{end:,.1f}" if end else ""
        ax.annotate(text, (end, row), (3, 0), textcoords="offset points", va="center", color=MUTED)
    ax.set_xlabel("seconds")
    ax.margins(x=0.12)
    ax.grid(visible=False, axis="y")
    ax.tick_params(axis="y", length=0)
    ax.legend(
        loc="lower left", bbox_to_anchor=(-0.02, 0.98), ncols=len(names),
        handlelength=0.9, handletextpad=0.4, columnspacing=1.1,
    )  # fmt: skip


def draw_spectrum(
    names: Sequence[str], eigenvalues: Mapping[int, Sequence[float]], label: str
) -> str:
    """Leading eigenvalues of the first split, largest first; a cut is clear where they drop.

    Args:
        names: of the runs.
        eigenvalues: by the number of the run.
        label: what a reader who does not see it is told.
    """
    with canvas("spectrum", height_in=2.6) as figure:
        ax = figure.subplots()
        for series, values in eigenvalues.items():
            style = {**style_of(series), "linestyle": ""}
            ax.plot(range(1, len(values) + 1), values, **style)
        ax.set_title("Leading eigenvalues of the normalised affinity")
        ax.set_xlabel("number")
        _add_legend(figure, names)
        return to_svg(figure, label)


def _add_legend(figure: "Figure", names: Sequence[str], hollow: Sequence[str] = ()) -> None:
    """Above the panels; a run on its own needs no name.

    Args:
        figure: that it belongs to.
        names: of the runs.
        hollow: what hollow marks are.
    """
    from matplotlib.lines import Line2D

    lines = {name: style_of(series) for series, name in enumerate(names) if len(names) > 1}
    lines |= {text: {**style_of(0), "color": MUTED, **_HOLLOW} for text in hollow}
    if not lines:
        return
    legend = figure.legend(
        handles=[Line2D([], [], **style) for style in lines.values()],
        labels=["name"] * len(lines),  # matplotlib hides one that begins with an underscore
        loc="outside upper left",
        ncols=_LEGEND_COLUMNS,
        labelcolor=INK,
    )
    for text, name in zip(legend.get_texts(), lines, strict=True):
        text.set_text(name)
