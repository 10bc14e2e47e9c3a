"""Functions of Python source as (docstring, body) pairs. Source is parsed, never imported or run.

What counts as a pair worth learning from is decided here, by the constants below: the docstring's
first paragraph must read like a sentence, and the body must do something.
"""

import ast
import inspect
import re
import tokenize
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MIN_DOC_WORDS, MAX_DOC_WORDS = 3, 100
MIN_ASCII_LETTERS = 0.6  # of the characters that are not white space
MIN_BODY_STATEMENTS = 2
MIN_BODY_CHARACTERS, MAX_BODY_LINES = 40, 100
SECTION_STARTS = (":", "@", ">>>", "..", "-", "=", "args:", "parameters", "returns:")

_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Function:
    """One documented function.

    Attributes:
        qualname: as Python's own, without `<locals>`: `Class.method.inner`.
        signature: from `def` to the colon.
        line: of `def`, from 1.
        doc: first paragraph of the docstring, white space collapsed.
        body: source after the docstring, dedented.
    """

    qualname: str
    signature: str
    line: int
    doc: str
    body: str


def functions_of(path: Path) -> list[Function] | None:
    """List the functions of a file that pass the filters, in the order of their lines.

    Args:
        path: a Python source file.

    Returns:
        None if the file cannot be read, or is not valid Python of this version.
    """
    try:
        with tokenize.open(path) as file, warnings.catch_warnings():  # heeds `coding:` lines
            warnings.simplefilter("ignore")  # of invalid escapes in other people's strings
            source = file.read()
            tree = ast.parse(source)
    except (OSError, SyntaxError, ValueError, RecursionError):  # ValueError: bad or null bytes
        return None
    lines = source.split("\n")
    found = []
    for qualname, node in _walk(tree):
        doc = first_paragraph(ast.get_docstring(node, clean=False) or "")
        body = _body(node, lines)
        if is_sentence(doc) and is_substantial(node, body):
            found.append(Function(qualname, _signature(node), node.lineno, doc, body))
    return sorted(found, key=lambda function: function.line)


def first_paragraph(docstring: str) -> str:
    """The text before the first blank line, white space collapsed."""
    paragraph = re.split(r"\n\s*\n", inspect.cleandoc(docstring), maxsplit=1)[0]
    return " ".join(paragraph.split())


def is_sentence(doc: str) -> bool:
    """Whether a paragraph describes something in words, rather than list parameters or markup."""
    characters = doc.replace(" ", "")
    num_letters = sum(character.isascii() and character.isalpha() for character in characters)
    return (
        MIN_DOC_WORDS <= len(doc.split()) <= MAX_DOC_WORDS
        and num_letters >= MIN_ASCII_LETTERS * len(characters)
        and not doc.lower().startswith(SECTION_STARTS)
    )


def is_substantial(node: _Function, body: str) -> bool:
    """Whether a function does enough to be told from others, and is short enough to be read."""
    if len(body) < MIN_BODY_CHARACTERS or body.count("\n") >= MAX_BODY_LINES:
        return False
    statements = (
        inner for outer in node.body[1:] for inner in ast.walk(outer) if isinstance(inner, ast.stmt)
    )
    return sum(1 for _ in statements) >= MIN_BODY_STATEMENTS


def _walk(tree: ast.Module) -> Iterator[tuple[str, _Function]]:
    stack: list[tuple[str, ast.AST]] = [("", tree)]  # not recursion: nesting may be deep
    while stack:
        scope, node = stack.pop()
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                name = f"{scope}.{child.name}" if scope else child.name
                stack.append((name, child))
                if not isinstance(child, ast.ClassDef):
                    yield name, child
            elif isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):
                stack.append((scope, child))  # functions also hide below `if` and `try`


def _body(node: _Function, lines: list[str]) -> str:
    """Source lines after the docstring, comments included; empty if they share its line."""
    first = node.body[0].end_lineno or node.lineno
    if len(node.body) < 2 or node.body[1].lineno == first:
        return ""
    block = lines[first : node.end_lineno]
    indent = node.body[1].col_offset
    # Not textwrap.dedent, which stops at a text line of a long string at column 0.
    block = [line[indent:] if not line[:indent].strip() else line for line in block]
    return "\n".join(line.rstrip() for line in block).strip("\n")


def _signature(node: _Function) -> str:
    prefix = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{prefix} {node.name}({ast.unparse(node.args)}){returns}"
