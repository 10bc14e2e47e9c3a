"""How many false negatives, and pairs that may be confused, each round of a run put into one batch.

    coterie dataset image-text data/image-text
    coterie run configs/image_text.yaml
    python -m benchmarks.false_negatives runs/image-text

Only a generated data set knows which of its pairs mean the same (`trainer/datasets/truth.py`). "By chance" is what
batches would hold that are drawn at random.
"""

import argparse
from pathlib import Path

import numpy as np

from launcher.run_dir import RunDir
from selection.schedule import open_schedule
from selection.shards import ShardIndex
from trainer.datasets.truth import num_false_negatives, read_truth

TRUTHS = {"false negatives": "meaning", "of one class": "class"}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_DIR")
    for run in parser.parse_args().runs:
        print("\n".join(describe(run)))


def describe(run: Path) -> list[str]:
    """One line per round of a run."""
    folders = RunDir(run)
    index = ShardIndex.open(folders.index("train"))
    numbers = {label: read_truth(index, name) for label, name in TRUTHS.items()}
    lines = []
    for folder in sorted(folders.schedules.glob("round-*")):
        batches = open_schedule(folder).batches
        counts = [
            f"{num_false_negatives(batches, values).sum():,} {label}, "
            f"{by_chance(values, batches.shape[1]):,.1f} by chance"
            for label, values in numbers.items()
        ]
        lines.append(f"{run}  {folder.name}  {';  '.join(counts)}")
    return lines


def by_chance(values: np.ndarray, batch_size: int) -> float:
    """Pairs of pairs with the same number that random batches of all pairs would hold."""
    sizes = np.bincount(values)
    return float((sizes * (sizes - 1) / 2).sum() * (batch_size - 1) / (len(values) - 1))


if __name__ == "__main__":
    main()
