"""What a study claims and what it found: one row each, with a mark."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from launcher.compare import to_text


@dataclass(frozen=True)
class Claim:
    """A number that should be equal to a reference, or on one side of it."""

    statement: str
    """Whose claim it is, such as `Theorem 1`."""

    what: str
    found: float
    reference: float
    relation: Literal["=", "<=", ">="] = "="
    tolerance: float = 1e-4

    @property
    def passed(self) -> bool:
        """Whether it holds, to within the tolerance; a NaN never does."""
        excess = self.found - self.reference
        return bool(
            {
                "=": abs(excess) <= self.tolerance,
                "<=": excess <= self.tolerance,
                ">=": excess >= -self.tolerance,
            }[self.relation]
        )

    @property
    def mark(self) -> str:
        """PASS or FAIL."""
        return "PASS" if self.passed else "FAIL"

    def to_json(self) -> dict[str, Any]:
        """For a file of results."""
        return {**asdict(self), "passed": self.passed}


@dataclass(frozen=True)
class Table:
    """Measurements for which nobody has a reference."""

    title: str
    text: str
    """What was done, and what the rows show."""

    heading: Sequence[str]
    rows: Sequence[Sequence[str]]

    def to_markdown(self) -> str:
        """The table under its title."""
        return f"## {self.title}\n\n{self.text}\n\n{to_text([self.heading, *self.rows])}\n"

    def to_json(self) -> dict[str, Any]:
        """For a file of results: the rows, each by its heading."""
        rows = [dict(zip(self.heading, row, strict=True)) for row in self.rows]
        return {"title": self.title, "rows": rows}


def claims_table(claims: Sequence[Claim]) -> str:
    """One aligned Markdown row per claim."""
    heading = ["claim", "found", "reference", "tolerance", "mark"]
    rows = [
        [
            f"{claim.statement}: {claim.what}", f"{claim.found:.6f}",
            f"{claim.relation} {claim.reference:.6f}", f"{claim.tolerance:g}", claim.mark,
        ]
        for claim in claims
    ]  # fmt: skip
    return to_text([heading, *rows])
