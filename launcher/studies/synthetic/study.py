"""All methods in all settings, and the page that compares them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from launcher.studies.synthetic.figures import draw_curves, draw_heat_maps
from launcher.studies.synthetic.methods import METHODS
from launcher.studies.synthetic.runs import LEARNING_RATE, SETTINGS, Curves, Setting, train_all
from launcher.studies.synthetic.summary import (
    CLEARLY,
    Order,
    orders,
    orders_table,
    setting_table,
    to_json,
)
from selection.artifacts import atomic_file, write_json
from selection.progress import Progress

NAME = "study-synthetic"
PICTURES = "distance", "gap", "heatmaps"
_STEPS_SHOWN = (100, 300, 500)


def run_synthetic(
    out: Path,
    num_runs: int,
    num_steps: int,
    seed: int,
    num_workers: int,
    progress: Progress,
    settings: Sequence[Setting] = SETTINGS,
    methods: Sequence[str] = tuple(METHODS),
) -> list[Order]:
    """Train, and write `study-synthetic.md` and `.json` and three pictures.

    Args:
        out: folder of the files; it exists.
        num_runs: starts, the same for every method.
        num_steps: of N / B updates, as far as a method makes so many.
        seed: of the first run; the others count on.
        num_workers: processes; what comes out does not depend on it.
        progress: told after each method in each setting.
        settings: N and d.
        methods: names in `METHODS`.

    Returns:
        How every two methods rank, as far as the reference knows both.
    """
    done: dict[tuple[Setting, str], Curves] = {}
    total = len(settings) * len(methods)
    progress("synthetic", 0, total, "curves")
    for curves in train_all(settings, methods, num_runs, num_steps, seed, num_workers):
        done[curves.setting, curves.method] = curves
        progress("synthetic", len(done), total, "curves")
    by_setting = {setting: [done[setting, method] for method in methods] for setting in settings}
    for measure in ("gap", "distance"):
        draw_curves(out / f"{NAME}-{measure}.png", by_setting, measure)
    draw_heat_maps(out / f"{NAME}-heatmaps.png", by_setting)
    everything = [curves for group in by_setting.values() for curves in group]
    fields = {"num_runs": num_runs, "num_steps": num_steps, "seed": seed}
    write_json(out / f"{NAME}.json", {**fields, "curves": [to_json(one) for one in everything]})
    ranked = orders(everything)
    with atomic_file(page_path(out), "w") as file:
        file.write(page(by_setting, ranked, num_runs, num_steps, seed))
    return ranked


def page_path(out: Path) -> Path:
    """Where the page goes."""
    return out / f"{NAME}.md"


def page(
    by_setting: Mapping[Setting, Sequence[Curves]],
    ranked: Sequence[Order],
    num_runs: int,
    num_steps: int,
    seed: int,
) -> str:
    """The comparison as Markdown."""
    steps = [step for step in _STEPS_SHOWN if step < num_steps] + [num_steps]
    sections = [
        "# Synthetic embeddings, batches of two",
        f"`coterie study synthetic --seeds {num_runs} --steps {num_steps} --seed {seed}`. Points of U and V from "
        f"N(0, I), SGD with rate {LEARNING_RATE:g} on L_con, the same start for every method. A step is N / 2 updates "
        "of one batch each, as in the paper; of the full batch and of all C(N, 2) batches it is one update. OSGD takes "
        "the hardest of all pairs before each update. Spectral clustering as in the paper cuts the graph of weights "
        "w(k, l), by k-means from one start; the authors' experiment cuts that of exp(w), from ten starts. "
        f"Medians of {num_runs} runs with the middle half of them. The "
        "distance ||U*^T V* - U^T V||_F is to the nearest numbering of the optimum, one for all rows and columns; the "
        "authors' code sorts each row by itself and reports less.",
        *(f"![]({NAME}-{picture}.png)" for picture in PICTURES),
    ]
    for setting, all_curves in by_setting.items():
        optimum = "simplex" if setting.is_simplex else "cross-polytope"
        sections += [f"## {setting}: {optimum}", setting_table(all_curves, steps)]
    if ranked:
        sections += ["## The order of the methods", _spell_orders(ranked), orders_table(ranked)]
    return "\n\n".join(sections) + "\n"


def _spell_orders(ranked: Sequence[Order]) -> str:
    same = {clear: [o.holds for o in ranked if o.is_clear == clear] for clear in (True, False)}
    return (
        "Every two methods that differ in the median gap of an independent implementation with six seeds, beside the "
        f"medians here. Of those that differ by a factor of {CLEARLY:g} or more, {sum(same[True])} of "
        f"{len(same[True])} have the same order, of the others {sum(same[False])} of {len(same[False])}. That factor "
        "was set after a look at these data; 1.5 had been meant."
    )
