"""Write what came out of studies into `benchmarks/results`, from their `results.json`.

    python -m benchmarks.keep_study studies/NAME/results.json ...

Takes files that were kept before as well, and writes their pages and pictures anew.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

from launcher.config import validate
from launcher.studies.trials.config import StudyConfig
from launcher.studies.trials.prices import Prices
from launcher.studies.trials.results import Result
from launcher.studies.trials.study import RESULTS, TABLE, tell

_PICTURES = ("curves.png", "differences.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    for path in args.results:
        keep(path, args.out)


def keep(path: Path, out: Path) -> None:
    """Write the page, the results and the pictures of one study."""
    known = json.loads(path.read_text())
    study = validate(StudyConfig, known["study"], source=str(path))
    prices = Prices(**known["prices"])
    results = [_read(trial, prices) for trial in known["trials"]]
    with tempfile.TemporaryDirectory() as folder:
        tell(study, prices, results, Path(folder))
        kept = {TABLE: ".md", RESULTS: ".json", **{name: f"-{name}" for name in _PICTURES}}
        for name, ending in kept.items():
            shutil.copyfile(Path(folder, name), out / f"study-{study.study_dir.name}{ending}")


def _read(trial: dict, prices: Prices) -> Result:
    """A result; those of earlier studies have neither the starts of their rounds nor the age of their embeddings."""
    starts = prices.by_starts(trial["arm"], trial["steps"])
    return Result(**{"starts": starts, "age_steps": None, **trial})


if __name__ == "__main__":
    main()
