"""What the curves of the synthetic study amount to: medians and quartiles over runs, and the order of the methods.

Legend: t steps, s runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
from jaxtyping import Float64

from launcher.compare import to_text
from launcher.studies.synthetic.methods import METHODS
from launcher.studies.synthetic.runs import STEPS_PER_DISTANCE, Curves, Setting, first_below

SMALL_GAP = 0.05
STEPS_IN_FILE = 50
"""The file of results has a point of each curve every so many steps, a multiple of those between distances."""

QUARTILES = (0.25, 0.5, 0.75)
CLEARLY = 2.0
"""Ratio of two medians from which on their order should be the same in other runs."""

REFERENCE_GAPS: Mapping[tuple[int, int], Mapping[int, Mapping[str, float]]] = {
    (4, 8): {
        100: {"random": 0.029, "osgd": 0.011, "paper_spectral": 0.013},
        300: {"random": 0.0044, "osgd": 0.0001, "paper_spectral": 0.0001},
    },
    (4, 2): {
        100: {"random": 0.027, "osgd": 0.0033},
        300: {"random": 0.0058, "osgd": 0.0004},
    },
    (8, 16): {
        100: {"random": 0.118, "osgd": 0.092, "paper_spectral": 0.094, "greedy": 0.096},
        300: {"random": 0.0202, "osgd": 0.0014, "paper_spectral": 0.0019, "greedy": 0.0019},
    },
    (8, 4): {
        100: {"random": 0.063, "osgd": 0.002, "paper_spectral": 0.011, "greedy": 0.007},
        300: {"random": 0.039, "osgd": 0.0009, "paper_spectral": 0.0005, "greedy": 0.0004},
    },
    (16, 32): {
        100: {"random": 0.337, "osgd": 0.347, "paper_spectral": 0.339},
        300: {"random": 0.041, "osgd": 0.026, "paper_spectral": 0.025},
    },
    (16, 8): {
        100: {"random": 0.068, "osgd": 0.033, "paper_spectral": 0.048, "greedy": 0.033},
        300: {"random": 0.039, "osgd": 0.012, "paper_spectral": 0.0175, "greedy": 0.009},
    },
}  # fmt: skip
"""Median gaps of an independent implementation of the same experiment with six seeds, by (N, d), step and method."""


@dataclass(frozen=True)
class Order:
    """Whether two methods rank as in the reference."""

    setting: Setting
    step: int
    better: str
    worse: str
    reference: tuple[float, float]
    found: tuple[float, float]

    @property
    def is_clear(self) -> bool:
        """Whether the reference leaves no doubt which is better."""
        return self.reference[1] >= CLEARLY * self.reference[0]

    @property
    def holds(self) -> bool:
        """Whether the method that is better in the reference is better here."""
        return self.found[0] < self.found[1]


def quartiles(values: Float64[np.ndarray, "*t s"]) -> Float64[np.ndarray, "3 *t"]:
    """Lower quartile, median, upper quartile over runs."""
    return np.quantile(values, QUARTILES, axis=-1)


def orders(all_curves: Sequence[Curves]) -> list[Order]:
    """Every two methods of the reference that are not equal there, with the medians found here; the clearest first."""
    found = []
    for setting in dict.fromkeys(curves.setting for curves in all_curves):
        for step, theirs in REFERENCE_GAPS.get((setting.num_pairs, setting.dim), {}).items():
            ours = {
                curves.method: float(np.median(curves.gaps[step]))
                for curves in all_curves
                if curves.setting == setting and step < len(curves.gaps)
            }
            known = [name for name in METHODS if name in theirs and name in ours]
            for better, worse in permutations(known, 2):
                if theirs[better] < theirs[worse]:
                    gaps = ((source[better], source[worse]) for source in (theirs, ours))
                    found.append(Order(setting, step, better, worse, *gaps))
    return sorted(found, key=lambda order: -order.reference[1] / order.reference[0])


def setting_table(all_curves: Sequence[Curves], steps: Sequence[int]) -> str:
    """Markdown: a row for each method in one setting, medians with quartiles."""
    heading = [
        "method",
        *(f"L - L* after {step}" for step in steps),
        f"distance after {steps[-1] // STEPS_PER_DISTANCE * STEPS_PER_DISTANCE}",
        f"steps to L - L* < {SMALL_GAP:g}",
        "runs there",
    ]
    return to_text([heading, *(_row(curves, steps) for curves in all_curves)])


def _row(curves: Curves, steps: Sequence[int]) -> list[str]:
    firsts = first_below(curves.gaps, SMALL_GAP)
    reached = firsts[firsts >= 0]
    return [
        METHODS[curves.method].label,
        *(_spell(curves.gaps[step], 4) for step in steps),
        _spell(curves.distances[-1], 2),
        _spell(reached, 0) if len(reached) else "never",
        f"{len(reached)} of {len(firsts)}",
    ]


def _spell(values: np.ndarray, digits: int) -> str:
    low, middle, high = quartiles(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def orders_table(found: Sequence[Order]) -> str:
    """Markdown: a row for each two methods."""
    heading = ["setting", "step", "better", "worse", "reference", "here", "order"]
    rows = [
        [
            str(order.setting), str(order.step), METHODS[order.better].label,
            METHODS[order.worse].label, *(f"{a:.4f} < {b:.4f}" for a, b in (order.reference, order.found)),
            "same" if order.holds else "OTHER" if order.is_clear else "other",
        ]
        for order in found
    ]  # fmt: skip
    return to_text([heading, *rows])


def to_json(curves: Curves) -> dict[str, Any]:
    """Quartiles along the curves, and where each run was at the end."""
    every = STEPS_IN_FILE // STEPS_PER_DISTANCE
    sampled = {"gap": curves.gaps[::STEPS_IN_FILE], "distance": curves.distances[::every]}
    return {
        "num_pairs": curves.setting.num_pairs,
        "dim": curves.setting.dim,
        "method": curves.method,
        "steps": list(range(0, len(curves.gaps), STEPS_IN_FILE)),
        **{name: _rounded(quartiles(values)) for name, values in sampled.items()},
        "final_gaps": _rounded(curves.gaps[-1]),
        "final_distances": _rounded(curves.distances[-1]),
        "first_below": first_below(curves.gaps, SMALL_GAP).tolist(),
    }


def _rounded(values: np.ndarray) -> list:
    return np.round(values, 6).tolist()
