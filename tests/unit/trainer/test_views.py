import ast
import colorsys
import keyword
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from trainer.encoder_config import CodeViewsConfig, ImageViewsConfig
from trainer.views import FIXED_DRAW, view_generator
from trainer.views import code as code_views
from trainer.views import images as image_views

CODE = '''
def total(values, start=0):
    """Add "values" up."""
    count = start  # where to begin
    for value in values:
        count += value.size
    if not values:
        raise ValueError(f"no {values} # here")
    return count
'''.strip()

NO_CHANGE = {"min_span": 1, "drop_lines": 0, "drop_comments": 0, "rename": 0}
NO_IMAGE_CHANGE = {"min_area": 1, "flip": 0, "jitter": 0, "grey": 0, "blur": 0}


def generator():
    return np.random.default_rng(0)


def test_a_view_is_a_function_of_draw_key_and_side():
    names = [((1, 2, 3), "a", "u"), ((1, 2, 4), "a", "u"), ((1, 2, 3), "b", "u")]
    names += [((1, 2, 3), "a", "v"), (FIXED_DRAW, "a", "u"), (FIXED_DRAW, "a", "v")]
    numbers = [view_generator(*name).random(4).tolist() for name in names]
    assert len({tuple(row) for row in numbers}) == len(names)
    assert numbers == [view_generator(*name).random(4).tolist() for name in names]


# Code


def test_code_without_changes_stays():
    assert code_views.random_view(CODE, CodeViewsConfig(**NO_CHANGE), generator()) == CODE


def test_a_crop_is_one_span_of_at_least_so_many_lines():
    config = CodeViewsConfig(**{**NO_CHANGE, "min_span": 0.5})
    sizes = set()
    for seed in range(60):
        view = code_views.random_view(CODE, config, np.random.default_rng(seed))
        assert view in CODE
        sizes.add(view.count("\n") + 1)
    assert sizes == {4, 5, 6, 7, 8}


def test_lines_are_dropped_as_often_as_asked():
    config = CodeViewsConfig(**{**NO_CHANGE, "drop_lines": 0.25})
    text = "\n".join(f"line {number}" for number in range(4000))
    lines = code_views.random_view(text, config, generator()).split("\n")
    assert len(lines) == pytest.approx(3000, abs=100)
    assert lines == sorted(lines, key=lambda line: int(line.split()[1]))


def test_comments_and_docstrings_go_but_strings_stay():
    found = code_views.drop_comments(CODE)
    assert "Add" not in found
    assert "begin" not in found
    assert 'f"no {values} # here"' in found
    assert ast.dump(ast.parse(found)) == ast.dump(
        ast.parse(CODE.replace('"""Add "values" up."""', ""))
    )


def test_docstrings_go_wherever_a_view_begins():
    """Those that the crop would cut in two as well."""
    text = 'def a():\n    """Open\n    it."""\n    return left\n\ndef b():\n    """Close\n    it."""\n    return right'
    config = CodeViewsConfig(min_span=0.2, drop_lines=0.2, drop_comments=1, rename=0)
    views = [code_views.random_view(text, config, np.random.default_rng(n)) for n in range(200)]
    assert not any(word in view for view in views for word in ("Open", "Close", "it."))
    assert any("left" in view for view in views)


def test_renaming_all_keeps_the_structure():
    found = code_views.rename(CODE, 1.0, generator())
    names = set(re.findall(r"(?<![\w.])[A-Za-z_]\w*", found))
    assert {name for name in names if not name.startswith("name_")} <= {*keyword.kwlist, "f"}
    assert ".size" in found  # an attribute
    kinds = [[type(node) for node in ast.walk(ast.parse(text))] for text in (CODE, found)]
    assert kinds[0] == kinds[1]


def test_a_renamed_name_is_renamed_everywhere_and_no_two_become_one():
    found = code_views.rename("a + b * a - c + b", 1.0, generator())
    a, b, a2, c, b2 = re.findall(r"\w+", found)
    assert (a, b) == (a2, b2)
    assert len({a, b, c}) == 3


def test_so_large_a_share_of_the_names_changes():
    text = " ".join(f"word{number}" for number in range(3000))
    found = code_views.rename(text, 0.3, generator())
    assert found.count("name_") == pytest.approx(900, abs=80)


@settings(max_examples=150, deadline=None)
@given(st.text(), st.integers(0, 2**32))
def test_any_text_has_views_that_are_empty_only_if_it_is(text, seed):
    config = CodeViewsConfig(min_span=0.1, drop_lines=0.9, drop_comments=1, rename=0.5)
    view = code_views.random_view(text, config, np.random.default_rng(seed))
    assert bool(view.strip()) == bool(text.strip())


# Images


@pytest.fixture
def image():
    rng = np.random.default_rng(3)
    return Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8))


def test_an_image_without_changes_is_only_resized(image):
    view = image_views.random_view(image, 12, ImageViewsConfig(**NO_IMAGE_CHANGE), generator())
    # A crop of the whole area may still be narrower, by its aspect ratio.
    box = image_views.random_box(*image.size, 1, generator())
    assert view == image.resize((12, 12), Image.Resampling.BILINEAR, box)


@pytest.mark.parametrize("change", ["flip", "grey"])
def test_each_change_does_what_it_says(image, change):
    plain = ImageViewsConfig(**NO_IMAGE_CHANGE)
    changed = plain.model_copy(update={change: 1.0})
    before = np.asarray(image_views.random_view(image, 12, plain, generator()), int)
    after = np.asarray(image_views.random_view(image, 12, changed, generator()), int)
    if change == "flip":
        assert np.array_equal(after, before[:, ::-1])
    else:
        assert (after == after[:, :, :1]).all()
        assert np.abs(after[:, :, 0] - before @ [0.299, 0.587, 0.114]).max() <= 1


def test_blur_brings_neighbours_closer(image):
    plain = ImageViewsConfig(**NO_IMAGE_CHANGE)
    views = [
        np.asarray(image_views.random_view(image, 224, config, generator()), float)
        for config in (plain, plain.model_copy(update={"blur": 1.0}))
    ]
    plain_steps, blurred_steps = (np.abs(np.diff(view, axis=0)).mean() for view in views)
    assert blurred_steps < plain_steps


def test_jitter_is_as_strong_as_asked(image):
    def change(strength):
        config = ImageViewsConfig(**{**NO_IMAGE_CHANGE, "jitter": 1, "jitter_strength": strength})
        views = [
            np.asarray(image_views.random_view(image, 12, c, np.random.default_rng(seed)), float)
            for seed in range(20)
            for c in (ImageViewsConfig(**NO_IMAGE_CHANGE), config)
        ]
        return np.mean([np.abs(a - b).mean() for a, b in zip(views[::2], views[1::2], strict=True)])

    assert change(0) < 3  # rounding of the hue alone
    assert 3 < change(0.2) < change(1)


@pytest.mark.parametrize("turn", [0.0, 1 / 3, -0.25])
def test_hues_turn_as_colorsys_says(turn):
    color = (200, 80, 40)
    turned = image_views.turn_hue(Image.new("RGB", (1, 1), color), turn).getpixel((0, 0))
    hue, saturation, value = colorsys.rgb_to_hsv(*(level / 255 for level in color))
    expected = np.array(colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)) * 255
    assert np.abs(np.array(turned) - expected).max() < 8  # Pillow has 256 hues


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.floats(0.05, 1), st.integers(0, 2**32))
def test_crops_lie_inside_and_are_no_larger_than_the_image(width, height, min_area, seed):
    left, top, right, bottom = image_views.random_box(
        width, height, min_area, np.random.default_rng(seed)
    )
    assert 0 <= left < right <= width + 1e-9
    assert 0 <= top < bottom <= height + 1e-9


def test_crops_of_square_images_have_the_area_and_aspect_asked_for():
    rng = generator()
    boxes = np.array([image_views.random_box(100, 100, 0.25, rng) for _ in range(3000)])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    areas = width * height / 100**2
    assert 0.24 < areas.min() < 0.26
    assert areas.mean() == pytest.approx(0.625, abs=0.03)  # a few are cut at the edges
    aspects = np.log(width / height)
    assert np.abs(aspects).max() <= np.log(4 / 3) + 1e-9
    assert aspects.mean() == pytest.approx(0, abs=0.02)
