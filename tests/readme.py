"""The README's Python examples, for the tests that run them as they stand."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def python_examples() -> list[str]:
    """The Python blocks, in order."""
    return re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE)


def example_with(word: str) -> str:
    """The one that holds `word`."""
    (example,) = [text for text in python_examples() if word in text]
    return example
