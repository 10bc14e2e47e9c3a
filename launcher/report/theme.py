"""How figures look: matplotlib draws in stand-in colours, which become CSS variables of the page.

A figure so follows the theme of the page that it is in. Text stays text: it can be selected, searched and read aloud.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, MUTED, GRID, PAPER = "#010100", "#010200", "#010300", "#010400"
NUM_SERIES, NUM_STAGES = 8, 6
SERIES = tuple(f"#0200{number:02x}" for number in range(NUM_SERIES))
STAGE = tuple(f"#0300{number:02x}" for number in range(NUM_STAGES))
PART = tuple(f"#0400{number:02x}" for number in range(NUM_STAGES))
VARIABLES = {
    **dict(zip((INK, MUTED, GRID, PAPER), ("--ink", "--muted", "--grid", "--paper"), strict=True)),
    **{color: f"--series-{number}" for number, color in enumerate(SERIES)},
    **{color: f"--stage-{number}" for number, color in enumerate(STAGE)},
    **{color: f"--part-{number}" for number, color in enumerate(PART)},
}
"""The variable of `page.css` that each stand-in becomes."""

DASHES = ("-", (0, (4, 1.5)), (0, (1.5, 1.2)), (0, (5, 1.5, 1, 1.5)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
WIDTH_IN = 10.4

_STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "figure.constrained_layout.use": True,
    "figure.facecolor": "none",
    "font.size": 8.5,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
    "svg.fonttype": "none",
    "text.color": INK,
    "text.parse_math": False,  # a run may be called a$b$c
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}


def style_of(series: int) -> dict:
    """Colour, dashes and marker of a series: no two of the first 8 share any two of them."""
    return {
        "color": SERIES[series % len(SERIES)],
        "linestyle": DASHES[series % len(DASHES)],
        "marker": MARKERS[series % len(MARKERS)],
    }


@contextmanager
def canvas(name: str, height_in: float) -> Iterator["Figure"]:
    """An empty figure as wide as the page.

    Args:
        name: of the figure, from which the ids in its SVG are made.
        height_in: its height in inches.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {**_STYLE, "svg.hashsalt": name}
    with mpl.rc_context(style):
        yield Figure(figsize=(WIDTH_IN, height_in))


def to_svg(figure: "Figure", label: str) -> str:
    """The figure as an SVG element for a page.

    Args:
        figure: made in `canvas`, which must still be open.
        label: what a reader who does not see it is told.
    """
    from markupsafe import escape

    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
    )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub("|".join(VARIABLES), lambda match: f"var({VARIABLES[match[0]]})", text)
    text = _without_unused_ids(text)
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1)


def _without_unused_ids(text: str) -> str:
    """Ids such as `axes_1` would be in a page once per figure."""
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    return re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in used else "", text)
