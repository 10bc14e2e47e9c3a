"""A whole selection, from mapped embeddings to batches: seconds of its stages, peak memory, and how both grow with N.

    python -m benchmarks.whole power:100000 power:1000000 --batch-size 64 --repeats 3

Unlike in the tables of `selection.py`, the search for neighbours counts in the memory, N need not be a multiple of B,
and duplicates are looked for. Every selection runs in a process of its own; sizes take turns, so that a slow hour of
the machine does not fall on one of them. Prints a table of medians.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.datasets import embeddings
from benchmarks.growth import growth_power
from benchmarks.selection_case import TEMPERATURE, peak_bytes, warm_up
from selection.config import SelectionConfig
from selection.select import choose

_BYTES_PER_LINK = 16  # id and weight, at both ends
_BYTES_PER_ROW = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", nargs="+", metavar="KIND:N", help="as in benchmarks/selection.py")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--in", dest="folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.folder:
        print(json.dumps(select_from(args.folder, args.batch_size)))
        return
    rows = run(args.data, args.batch_size, args.repeats)
    stages = list(dict.fromkeys(stage for row in rows for stage in row["seconds"]))
    print(f"| data | {' | '.join(stages)} | total s | peak MiB | peak / (U, V, graph) |")
    print("|---" * (len(stages) + 4) + "|")
    for row in rows:
        seconds = " | ".join(f"{row['seconds'].get(stage, 0):.1f}" for stage in stages)
        ratio = row["peak_bytes"] / row["data_bytes"]
        peak = row["peak_bytes"] / 2**20
        print(f"| {row['data']} | {seconds} | {row['total_s']:.1f} | {peak:,.0f} | {ratio:.2f} |")
    for small, large in pairwise(rows):
        power = growth_power(*((row["pairs"], row["total_s"]) for row in (small, large)))
        print(f"{small['data']} to {large['data']}: N^{power:.2f}")


def run(sizes: list[str], batch_size: int, num_repeats: int) -> list[dict[str, Any]]:
    """Make the embeddings and select from them in other processes; the medians of each size."""
    with tempfile.TemporaryDirectory() as folder:
        places = {data: Path(folder, data.replace(":", "-")) for data in sizes}
        num_pairs = {data: write(data, place) for data, place in places.items()}
        found: dict[str, list[dict[str, Any]]] = {data: [] for data in sizes}
        for data in sizes * num_repeats:
            command = ["-m", "benchmarks.whole", data, "--batch-size", str(batch_size)]
            command = [sys.executable, *command, "--in", str(places[data])]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
            found[data].append(json.loads(done.stdout))
            print(f"{data}: {found[data][-1]['total_s']:.1f} s", file=sys.stderr)
    return [{"data": data, "pairs": num_pairs[data], **medians(found[data])} for data in sizes]


def medians(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Of each number and of the seconds of each stage, over the repeats."""
    seconds = {
        stage: statistics.median(each["seconds"][stage] for each in found)
        for stage in found[0]["seconds"]
    }
    others = found[0].keys() - {"seconds"}
    return {"seconds": seconds} | {
        name: statistics.median(each[name] for each in found) for name in others
    }


def write(data: str, folder: Path) -> int:
    """Write U and V; how many pairs there are."""
    folder.mkdir()
    sides = embeddings(data)
    for name, rows in zip("UV", sides, strict=True):
        np.save(folder / f"{name}.npy", rows)
    return len(sides[0])


def select_from(folder: Path, batch_size: int) -> dict[str, Any]:
    """Seconds and bytes of one selection."""
    U, V = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in "UV")
    warm_up(batch_size, SelectionConfig(), len(U) % batch_size)
    start = time.perf_counter()
    fields = choose((U, V), batch_size, TEMPERATURE, SelectionConfig()).fields
    total_s = time.perf_counter() - start
    graph_bytes = _BYTES_PER_LINK * fields["num_links"] + _BYTES_PER_ROW * len(U)
    return {
        "seconds": fields["seconds"],
        "total_s": total_s,
        "peak_bytes": peak_bytes(),
        "data_bytes": U.nbytes + V.nbytes + graph_bytes,
    }


if __name__ == "__main__":
    main()
