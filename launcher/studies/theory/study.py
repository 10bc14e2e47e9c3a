"""All statements, one after another, and the page that shows what holds."""

from collections.abc import Callable
from pathlib import Path

from launcher.studies.claims import Claim, Table, claims_table
from launcher.studies.theory import batches, optima, ordered
from launcher.studies.theory.figures import draw
from launcher.studies.theory.open_questions import beyond_the_simplex, shared_encoder
from selection.artifacts import atomic_file, write_json
from selection.progress import Progress
from selection.threads import one_blas_thread

STATEMENTS: tuple[Callable[[int], list[Claim]], ...] = (
    optima.simplex_is_best,
    optima.cross_polytope_is_best,
    optima.not_quasi_convex,
    batches.all_batches_suffice,
    batches.fewer_pairs_do_not,
    batches.fewer_triples_may,
    batches.circle_breaks_it,
    batches.fixed_batches_vary,
    ordered.weights_by_rank,
    ordered.ordered_is_faster,
)
"""Each makes its claims from a seed."""

NAME = "study-theory"


def run_theory(out: Path, seed: int, progress: Progress) -> list[Claim]:
    """Check every statement, measure the open questions, and write `study-theory.md`, `.json` and `.png`.

    Args:
        out: folder of the files; it exists.
        seed: of the starts of every search; what is found should not depend on it.
        progress: told after each statement.
    """
    claims: list[Claim] = []
    with (
        one_blas_thread()
    ):  # the matrices are small: on a busy machine, threads wait for each other
        for number, statement in enumerate(STATEMENTS, start=1):
            claims += statement(seed)
            progress("statements", number, len(STATEMENTS), "statements")
        tables = [
            beyond_the_simplex(
                seed, lambda done, total: progress("N > d + 1", done, total, "sizes")
            ),
            shared_encoder(seed),
        ]
    draw(out / f"{NAME}.png", seed)
    with atomic_file(page_path(out), "w") as file:
        file.write(page(claims, tables, seed))
    write_json(out / f"{NAME}.json", {
        "seed": seed,
        "claims": [claim.to_json() for claim in claims],
        "tables": [table.to_json() for table in tables],
    })  # fmt: skip
    return claims


def page_path(out: Path) -> Path:
    """Where the page goes."""
    return out / f"{NAME}.md"


def page(claims: list[Claim], tables: list[Table], seed: int) -> str:
    """What was claimed and found, as Markdown."""
    held = sum(claim.passed for claim in claims)
    sections = [
        "# Theory of the loss, checked by minimising it",
        f"`coterie study theory --seed {seed}`: {held} of {len(claims)} claims hold. L_con is the sum of both "
        "directions at temperature 1; minima are the lowest of several starts of L-BFGS on free embeddings, in double "
        "precision; `difference` is the largest one between sorted similarities. Tolerances above 0.0001 stand where "
        "the reference has fewer digits, or where random runs are averaged.",
        f"![]({NAME}.png)",
        claims_table(claims),
        *(table.to_markdown() for table in tables),
    ]
    return "\n\n".join(sections)
