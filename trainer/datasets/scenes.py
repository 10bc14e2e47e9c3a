"""Scenes of two shapes: what one means, as numbers; a picture of it; a caption that says all of it.

A meaning is ten attributes: the background, where the two shapes are, and size, colour, texture and form of each.
There are `NUM_MEANINGS` of them. Pictures of one meaning differ in what no caption tells: small shifts, turns, shades
and noise. Captions of one meaning differ in wording and order, and each names all ten attributes.

Two styles of captions share no sentence, so that two pairs of one meaning never have the same bytes.

Legend: n scenes, a attributes, p corners, f height and width of a picture before it is shrunk.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Complex128, Int64
from PIL import Image, ImageChops, ImageDraw

_CELLS = [
    f"{row} {column}".strip()
    for row in ("top", "middle", "bottom")
    for column in ("left", "", "right")
]
_LAYOUTS = list(itertools.combinations(range(len(_CELLS)), 2))
_SIZES = {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")}
_COLORS = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (50, 80, 230),
    "yellow": (240, 220, 40),
    "orange": (245, 140, 30),
    "purple": (150, 50, 190),
    "pink": (250, 150, 200),
    "cyan": (60, 210, 220),
}
_TEXTURES = {
    "plain": ("plain", "solid"),
    "striped": ("striped", "stripy"),
    "dotted": ("dotted", "spotted"),
}


def _outline(radii: Sequence[float], phase: float) -> Complex128[np.ndarray, "p"]:
    """A polygon around 0 in the complex plane, its corners at even angles from `phase` on."""
    return np.array(radii) * np.exp(1j * (phase + 2 * np.pi * np.arange(len(radii)) / len(radii)))


_DISC = _outline([1] * 32, 0)
_BAR = np.array([-0.36 - 1.05j, 0.36 - 1.05j, 0.36 + 1.05j, -0.36 + 1.05j])
_FORMS = {
    "disc": [(_DISC, 255)],
    "ring": [(_DISC, 255), (0.5 * _DISC, 0)],
    "square": [(_outline([1.1] * 4, np.pi / 4), 255)],
    "triangle": [(_outline([1.15] * 3, -np.pi / 2), 255)],
    "cross": [(_BAR, 255), (1j * _BAR, 255)],
    "star": [(_outline([1.15, 0.45] * 5, -np.pi / 2), 255)],
}
"""What to draw, one polygon over the other: its corners, and whether it adds (255) or takes away (0)."""

_BACKGROUNDS = {
    "black": (15, 15, 15),
    "grey": (115, 115, 115),
    "white": (240, 240, 240),
    "brown": (95, 60, 30),
}

ATTRIBUTES: dict[str, list[str]] = {
    "background": list(_BACKGROUNDS),
    "layout": [f"{_CELLS[first]}, {_CELLS[second]}" for first, second in _LAYOUTS],
    **{
        f"{which}_{name}": list(values)
        for which in ("first", "second")
        for name, values in (
            ("size", _SIZES),
            ("color", _COLORS),
            ("texture", _TEXTURES),
            ("form", _FORMS),
        )
    },
}
"""The values of each attribute, in the order of the columns of a meaning."""

NUM_VALUES = np.array([len(values) for values in ATTRIBUTES.values()])
NUM_MEANINGS = int(NUM_VALUES.prod())
NUM_STYLES = 2

_STYLES = (
    ("{a} at the {pa} and {b} at the {pb} on a {background} background",
     "a {background} background with {a} at the {pa} and {b} at the {pb}"),
    ("a picture of {a}, {pa}, and {b}, {pb}, in front of {background}",
     "in front of {background} there are {a}, {pa}, and {b}, {pb}"),
)  # fmt: skip
_SCALE = 4  # pictures are drawn larger and shrunk, which smooths their edges
_RADIUS = {"small": 0.33, "large": 0.48}  # of a cell


def meaning_ids(meanings: Int64[np.ndarray, "n a"]) -> Int64[np.ndarray, "n"]:
    """One number per meaning, the same for the same attributes."""
    return np.asarray(np.ravel_multi_index(tuple(meanings.T), tuple(NUM_VALUES)))


def describe(meaning: Int64[np.ndarray, "a"]) -> dict[str, str]:
    """The attributes in words."""
    values = zip(ATTRIBUTES.items(), meaning.tolist(), strict=True)
    return {name: words[number] for (name, words), number in values}


def caption(meaning: Int64[np.ndarray, "a"], style: int, rng: np.random.Generator) -> str:
    """A sentence that says everything about a scene.

    Args:
        meaning: numbers of the values.
        style: below `NUM_STYLES`.
        rng: chooses among the wordings of the style.
    """
    words = describe(meaning)
    first, second = _LAYOUTS[meaning[1]]
    things = [
        (_thing(words, "first", rng), _CELLS[first]),
        (_thing(words, "second", rng), _CELLS[second]),
    ]
    (a, pa), (b, pb) = things if rng.random() < 0.5 else reversed(things)
    template = _STYLES[style][rng.integers(len(_STYLES[style]))]
    return template.format(a=a, pa=pa, b=b, pb=pb, background=words["background"])


def _thing(words: dict[str, str], which: str, rng: np.random.Generator) -> str:
    size = rng.choice(_SIZES[words[f"{which}_size"]])
    texture = rng.choice(_TEXTURES[words[f"{which}_texture"]])
    return f"a {size} {texture} {words[f'{which}_color']} {words[f'{which}_form']}"


def render(meaning: Int64[np.ndarray, "a"], size: int, rng: np.random.Generator) -> Image.Image:
    """A picture of a scene.

    Args:
        meaning: numbers of the values.
        size: height and width in pixels.
        rng: what the meaning leaves open.
    """
    words = describe(meaning)
    full = size * _SCALE
    image = Image.new("RGB", (full, full), _shade(_BACKGROUNDS[words["background"]], rng))
    for which, cell in zip(("first", "second"), _LAYOUTS[meaning[1]], strict=True):
        place = _place(words[f"{which}_size"], cell, full, rng)
        mask = _mask(words[f"{which}_form"], *place, full)
        color = _shade(_COLORS[words[f"{which}_color"]], rng)
        pattern = Image.fromarray(_pattern(words[f"{which}_texture"], full, rng))
        image.paste(tuple(level // 3 for level in color), mask=mask)
        image.paste(color, mask=ImageChops.darker(mask, pattern.convert("L")))
    pixels = np.asarray(image.resize((size, size), Image.Resampling.BOX), dtype=float)
    noisy = pixels + rng.normal(0, 6, pixels.shape)
    return Image.fromarray(noisy.round().clip(0, 255).astype(np.uint8))


def _shade(color: tuple[int, int, int], rng: np.random.Generator) -> tuple[int, ...]:
    return tuple((np.array(color) + rng.integers(-12, 13, 3)).clip(0, 255).tolist())


def _place(size: str, cell: int, full: int, rng: np.random.Generator) -> tuple[complex, complex]:
    """Centre of a shape, and what its outline is multiplied by: its radius, turned a little."""
    width = full / 3
    row, column = divmod(cell, 3)
    x, y = (np.array([column, row]) + 0.5 + rng.uniform(-0.08, 0.08, 2)) * width
    radius = _RADIUS[size] * width * rng.uniform(0.92, 1.08)
    return complex(x, y), radius * np.exp(1j * rng.uniform(-0.2, 0.2))


def _mask(form: str, center: complex, scale: complex, full: int) -> Image.Image:
    """Where a shape is."""
    mask = Image.new("L", (full, full))
    for outline, level in _FORMS[form]:
        corners = center + scale * outline
        points = zip(corners.real.tolist(), corners.imag.tolist(), strict=True)
        ImageDraw.Draw(mask).polygon(list(points), fill=level)
    return mask


def _pattern(texture: str, full: int, rng: np.random.Generator) -> Bool[np.ndarray, "f f"]:
    """Where a shape has its colour; elsewhere it is dark."""
    wave = 2 * math.pi / (full / 9)
    y, x = np.ogrid[:full, :full]
    phase = rng.uniform(0, 2 * math.pi, 2)
    if texture == "striped":
        return np.sin(wave * (x + y) / math.sqrt(2) + phase[0]) > -0.2
    if texture == "dotted":
        return np.sin(wave * x + phase[0]) * np.sin(wave * y + phase[1]) < 0.35
    return np.ones((full, full), bool)
