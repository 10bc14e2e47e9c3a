"""The README's examples, for the tests that use them as they stand."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def python_examples() -> list[str]:
    """The Python blocks, in order."""
    return examples_in("python")


def examples_in(language: str) -> list[str]:
    """The blocks that are said to be in a language, in order."""
    fence = rf"^```{language}\n(.*?)^```$"
    return re.findall(fence, README.read_text(), re.DOTALL | re.MULTILINE)


def example_with(word: str) -> str:
    """The one that holds `word`."""
    (example,) = [text for text in python_examples() if word in text]
    return example
