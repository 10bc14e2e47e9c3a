import itertools
import re
from pathlib import Path

import pytest

from launcher.report import theme

MIN_TEXT_CONTRAST, MIN_LINE_CONTRAST = 4.5, 3.0  # WCAG 2.2, level AA
STYLED = "svg.fonttype", "svg.hashsalt", "text.parse_math", "font.size", "axes.grid"
MIN_STEP = 1.2  # between neighbours in a stack, by lightness alone


def palettes():
    style = Path(theme.__file__).with_name("page.css").read_text()
    light, dark = style.split("@media screen", 1)
    return {
        name: dict(re.findall(r"(--[\w-]+): (#[0-9a-f]+)", part))
        for name, part in (("light", light), ("dark", dark))
    }


def luminance(color):
    digits = color[1:] if len(color) == 7 else "".join(2 * digit for digit in color[1:])
    values = (int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4))
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_that_of_the_guidelines():
    assert contrast("#fff", "#000000") == pytest.approx(21)
    assert contrast("#777777", "#fff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("name", ["light", "dark"])
def test_everything_stands_out_from_the_page(name):
    colors = palettes()[name]
    for background in ("--paper", "--raised"):
        for text in ("--ink", "--muted", "--link", "--alarm"):
            assert contrast(colors[text], colors[background]) >= MIN_TEXT_CONTRAST, text
    for number in range(theme.NUM_SERIES):
        color = colors[f"--series-{number}"]
        assert contrast(color, colors["--paper"]) >= MIN_LINE_CONTRAST, number


@pytest.mark.parametrize("name", ["light", "dark"])
@pytest.mark.parametrize("stack", ["stage", "part"])
def test_neighbours_in_a_stack_differ_without_colour(name, stack):
    colors = [palettes()[name][f"--{stack}-{number}"] for number in range(theme.NUM_STAGES)]
    for one, other in itertools.pairwise(colors):
        assert contrast(one, other) >= MIN_STEP, (one, other)


def test_series_differ_without_colour():
    styles = [theme.style_of(number) for number in range(theme.NUM_SERIES)]
    looks = {(str(style["linestyle"]), style["marker"]) for style in styles}
    assert len(looks) == theme.NUM_SERIES
    assert len({style["marker"] for style in styles}) == theme.NUM_SERIES


def test_drawing_leaves_the_settings_of_others_alone():
    import matplotlib as mpl

    before = {key: mpl.rcParams[key] for key in STYLED}
    with theme.canvas("x", 2.0) as figure:
        figure.subplots().plot([0, 1], [1, 0], **theme.style_of(0))
        svg = theme.to_svg(figure, label='<"label">')
    assert {key: mpl.rcParams[key] for key in STYLED} == before
    assert svg.startswith('<svg role="img" aria-label="&lt;&#34;label&#34;&gt;"')
    assert "<metadata>" not in svg
