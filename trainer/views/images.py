"""Random views of an image: a crop, perhaps mirrored, in other colours, grey or blurred.

The augmentations of SimCLR, in their order, by Pillow on the CPU, as torchvision does them for PIL images. One
difference: a crop that would stick out is made narrower, where torchvision draws again up to ten times.

Source: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", 2020, appendix A.
"""

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from trainer.encoder_config import ImageViewsConfig

_MAX_ASPECT = 4 / 3
_BLUR_RADIUS = 0.1 / 224, 2.0 / 224  # of the height; SimCLR's sigma for images of 224 pixels


def random_view(
    image: Image.Image, size: int, config: ImageViewsConfig, rng: np.random.Generator
) -> Image.Image:
    """Make a view.

    Args:
        image: in RGB.
        size: height and width of the view, in pixels.
        config: which changes are made, and how often.
        rng: decides; each change draws its own probability first.

    Returns:
        The view, in RGB.
    """
    box = random_box(*image.size, config.min_area, rng)
    view = image.resize((size, size), Image.Resampling.BILINEAR, box)
    if rng.random() < config.flip:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < config.jitter:
        view = _jitter(view, config.jitter_strength, rng)
    if rng.random() < config.grey:
        view = view.convert("L").convert("RGB")
    if rng.random() < config.blur:
        view = view.filter(ImageFilter.GaussianBlur(size * rng.uniform(*_BLUR_RADIUS)))
    return view


def random_box(
    width: int, height: int, min_area: float, rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a crop.

    Its area is uniform from `min_area` of the image to all of it, the logarithm of its aspect ratio uniform up to 4:3
    either way, unless the crop is then wider or higher than the image.
    """
    area = width * height * rng.uniform(min_area, 1)
    aspect = math.exp(rng.uniform(-math.log(_MAX_ASPECT), math.log(_MAX_ASPECT)))
    crop_width = min(math.sqrt(area * aspect), width)
    crop_height = min(math.sqrt(area / aspect), height)
    left = rng.uniform(0, width - crop_width)
    top = rng.uniform(0, height - crop_height)
    return left, top, left + crop_width, top + crop_height


def _jitter(view: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    """Change brightness, contrast and saturation by up to 0.8 of `strength`, hue by up to 0.2, in any order."""
    factors = 1 + strength * rng.uniform(-0.8, 0.8, len(_CHANGES) - 1)
    turn = strength * rng.uniform(-0.2, 0.2)
    for number in rng.permutation(len(_CHANGES)):
        view = _CHANGES[number](view, (*factors, turn)[number])
    return view


def turn_hue(image: Image.Image, turn: float) -> Image.Image:
    """Move all hues by `turn` of the colour circle."""
    hue, saturation, value = image.convert("HSV").split()
    hue = hue.point([(level + round(turn * 256)) % 256 for level in range(256)])
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


_CHANGES: tuple[Callable[[Image.Image, float], Image.Image], ...] = (
    lambda image, factor: ImageEnhance.Brightness(image).enhance(factor),
    lambda image, factor: ImageEnhance.Contrast(image).enhance(factor),
    lambda image, factor: ImageEnhance.Color(image).enhance(factor),
    turn_hue,
)
