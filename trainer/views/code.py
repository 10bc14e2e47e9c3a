"""Random views of a piece of code: a span of it, fewer lines, no comments, other names.

Made from the text alone: nothing is parsed or run, so code that is broken, cut off or of another language than Python
has views as well. Strings are found by their quotes and comments by `#`, which is Python's way; other languages keep
their comments.
"""

import keyword
import re

import numpy as np

from trainer.encoder_config import CodeViewsConfig

# Strings come first, so that a `#` inside one starts no comment.
_STRING_OR_COMMENT = re.compile(
    r"""(?P<string>\"\"\".*?\"\"\"|'''.*?'''|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')|(?P<comment>\#[^\n]*)""",
    re.DOTALL,
)
_DOCSTRING = re.compile(r"(\"\"\"|''')")
# Neither attributes, which say what their object is, nor the letters that begin a string.
_NAME = re.compile(r"""(?<![\w.])(?![bfruBFRU]{1,2}["'])[A-Za-z_]\w*""")
_KEPT_NAMES = {*keyword.kwlist, *keyword.softkwlist, "self", "cls"}


def random_view(text: str, config: CodeViewsConfig, rng: np.random.Generator) -> str:
    """Make a view.

    Args:
        text: the code.
        config: which changes are made, and how often.
        rng: decides.

    Returns:
        The view; it is never empty unless `text` is.
    """
    # Before lines go: a quote that is left alone would pair with one of another string.
    code = drop_comments(text) if rng.random() < config.drop_comments else text
    code = code if code.strip() else text
    view = "\n".join(_drop_lines(_crop(code.split("\n"), config.min_span, rng), config, rng))
    return rename(view if view.strip() else code, config.rename, rng)


def _crop(lines: list[str], min_span: float, rng: np.random.Generator) -> list[str]:
    num_kept = int(rng.integers(max(1, round(min_span * len(lines))), len(lines), endpoint=True))
    start = int(rng.integers(len(lines) - num_kept, endpoint=True))
    return lines[start : start + num_kept]


def _drop_lines(lines: list[str], config: CodeViewsConfig, rng: np.random.Generator) -> list[str]:
    stays = rng.random(len(lines)) >= config.drop_lines
    return [line for line, stay in zip(lines, stays, strict=True) if stay]


def drop_comments(text: str) -> str:
    """The code without comments and without strings in triple quotes, which are docstrings nearly always."""

    def replacement(match: re.Match[str]) -> str:
        string = match["string"]
        return string if string and not _DOCSTRING.match(string) else ""

    lines = _STRING_OR_COMMENT.sub(replacement, text).split("\n")
    return "\n".join(line.rstrip() for line in lines if line.strip())


def rename(text: str, share: float, rng: np.random.Generator) -> str:
    """Give a share of the names in the code others, each the same one wherever it occurs.

    Keywords and attributes keep theirs. Names inside strings change as well, which is how f-strings stay right.
    """
    names = dict.fromkeys(name for name in _NAME.findall(text) if name not in _KEPT_NAMES)
    chosen = [
        name for name, number in zip(names, rng.random(len(names)), strict=True) if number < share
    ]
    others = {
        name: f"name_{number}"
        for name, number in zip(chosen, rng.permutation(len(chosen)), strict=True)
    }
    return _NAME.sub(lambda match: others.get(match[0], match[0]), text)
